"""Files that are whole or not there, whenever the process that writes them is killed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


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
