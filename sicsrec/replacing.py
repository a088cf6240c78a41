"""Files that are whole or not there, whenever the process that writes them is killed."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` in one rename when the block ends well.

    It is on the disk before it is renamed, so that a power cut leaves the old or the new one too.
    One process at a time may write to a path.
    """
    written = path.with_suffix(".tmp")
    with written.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)


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
