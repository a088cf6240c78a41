"""Files that are whole or not there, whenever the process that writes them is killed."""

import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

_LONGEST_BEGINNING = 50
"""Characters, of up to four bytes each."""


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` in one rename when the block ends well.

    It is on the disk before it is renamed, so that a power cut leaves the old or the new one too.
    One process at a time may write to a path; what one that was killed left beside it goes.
    """
    _clear_half_written(path)
    # Hidden, and of a name that no file of somebody else beside it has.
    written = path.with_name(f"{_prefix(path)}{uuid.uuid4().hex}.tmp")
    try:
        with written.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        written.replace(path)
    except BaseException:
        written.unlink(missing_ok=True)
        raise


def _prefix(path: Path) -> str:
    # Cut, because the whole name may be as long as a file's name can be: 255 bytes.
    return f".{path.name[:_LONGEST_BEGINNING]}."


def _clear_half_written(path: Path) -> None:
    ours = re.compile(rf"{re.escape(_prefix(path))}[0-9a-f]{{32}}\.tmp")
    for beside in path.parent.iterdir():
        if ours.fullmatch(beside.name):
            beside.unlink(missing_ok=True)


def replace_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON in one rename, so that others see the old file or the new one.

    Several processes may write to a path: the last one's content stays. A power cut may lose it.
    """
    written = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        # Escapes, because names of files may hold bytes that are no UTF-8.
        written.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        written.replace(path)
    except OSError:
        written.unlink(missing_ok=True)
        raise
