"""Large files in a second place without their bytes being written again."""

import os
import shutil
from pathlib import Path


def link_or_copy(source: Path, target: Path) -> Path:
    """Give ``source`` a second name, or copy it where the file system cannot, and return it.

    Only for files that nobody changes in place, such as those of the store: both names are one
    file. Either way the time of its last change stays what it was.
    """
    try:
        os.link(source, target)
    except OSError:
        # Another file system, or one without hard links.
        shutil.copy2(source, target)
    return target


def link_or_copy_folder(source: Path, target: Path) -> Path:
    """Do the same for all files below a folder; folders are made anew."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, place)
    return target
