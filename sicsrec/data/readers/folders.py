"""Finding the files of a layout in a folder."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePath, PurePosixPath

from sicsrec.artifacts import is_hidden, resolve_inside
from sicsrec.data.covers import CoverFile
from sicsrec.data.ids import text_id
from sicsrec.data.images import IMAGE_SUFFIXES
from sicsrec.data.quarantine import QuarantineLog
from sicsrec.data.videos import VIDEO_SUFFIXES
from sicsrec.errors import ArtifactError, DataError
from sicsrec.paths import printable

_SHOWN_NAMES = 12


def find_one(root: Path, patterns: Sequence[str], what: str) -> Path:
    """Return the one file or folder that fits the first pattern that anything fits.

    Hidden ones are not looked at: archives of a Mac hold a ``._name`` beside every file.

    Raises:
        DataError: if nothing fits, naming what was looked for, or if several do.
    """
    found = find_optional(root, patterns, what)
    if found is None:
        present = sorted(
            printable(path.name) for path in root.iterdir() if not is_hidden(path.name)
        )
        more = ", ..." if len(present) > _SHOWN_NAMES else ""
        raise DataError(
            f"{root} has no {what}: looked for {' or '.join(patterns)}, "
            f"found {', '.join(present[:_SHOWN_NAMES]) or 'nothing'}{more}"
        )
    return found


def find_optional(root: Path, patterns: Sequence[str], what: str) -> Path | None:
    """Like :func:`find_one`, but None when nothing fits.

    Raises:
        DataError: if several files fit one pattern, or the one is a link that leaves ``root``.
    """
    for pattern in patterns:
        found = sorted(path for path in root.glob(pattern) if not is_hidden(path.name))
        if len(found) > 1:
            names = ", ".join(printable(path.name) for path in found[:_SHOWN_NAMES])
            raise DataError(f"{root} has several files that may be the {what}: {names}; keep one")
        if found:
            return inside(root, found[0].name, f"the {what}")
    return None


def inside(root: Path, relative: str, key: str) -> Path:
    """Return ``root / relative``.

    Args:
        root: the data folder.
        relative: path out of the configuration.
        key: the configuration key, for the message.

    Raises:
        DataError: if it lies outside of ``root``, does not exist, or is hidden, also by a link to a
            folder: hidden files count for nothing, so a change of one would go unnoticed.
    """
    path, written = root / relative, PurePosixPath(relative)
    _refuse_hidden(written, f"{key}: {relative!r} is hidden")
    try:
        exists = resolve_inside(root, relative).exists()
        # A link to a file counts by the file's content; in a folder files count by where it is.
        folder = resolve_inside(root, str(written if path.is_dir() else written.parent))
    except ArtifactError as err:
        raise DataError(f"{key}: {relative!r} leads out of the data folder {root}") from err
    if not exists:
        raise DataError(f"{key}: the data folder {root} has no {relative!r}")
    place = folder.relative_to(root.resolve())
    _refuse_hidden(place, f"{key}: {relative!r} leads into the hidden folder {str(place)!r}")
    return path


def _refuse_hidden(path: PurePath, complaint: str) -> None:
    hidden = [part for part in path.parts if is_hidden(part) and part != ".."]
    if hidden:
        raise DataError(
            f"{complaint}, and hidden files of the data folder count for nothing; rename "
            f"{hidden[0]!r}, or make its folder the data folder"
        )


def check_folder(folder: Path) -> None:
    """Refuse a file where covers are looked for.

    Raises:
        DataError: if it is no folder.
    """
    if not folder.is_dir():
        raise DataError(
            f"{printable(str(folder))} is a file, and covers are read from a folder of images; "
            "move it away, or name the folder"
        )


def list_covers(
    folder: Path, data_root: Path, quarantine: QuarantineLog
) -> tuple[list[CoverFile], int]:
    """Return the covers named ``<item id>.<suffix>`` in a folder, and how many files are none.

    A name may be in any form of Unicode; its path stays as it is on disk. A video stands in for the
    cover of an item that has no image. A second cover of an item is quarantined. Sub-folders are
    not searched, and hidden files count for nothing.

    Raises:
        DataError: if it is no folder.
    """
    check_folder(folder)
    chosen: dict[str, str] = {}
    n_ignored = 0
    with os.scandir(folder) as entries:
        visible = [entry.name for entry in entries if not is_hidden(entry.name)]
    names = sorted(visible, key=lambda name: (_is_video(name), name))
    for name in names:
        item_id, suffix = text_id(Path(name).stem), Path(name).suffix.lower()
        if suffix in VIDEO_SUFFIXES and item_id in chosen and not _is_video(chosen[item_id]):
            continue
        if suffix not in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
            n_ignored += 1
        elif item_id in chosen:
            detail = f"{chosen[item_id]} is kept"
            file = (folder / name).relative_to(data_root)
            quarantine.add("cover", file.as_posix(), None, item_id, "duplicate_cover", detail)
        else:
            chosen[item_id] = name
    prefix = folder.relative_to(data_root).as_posix()
    return [CoverFile(item_id, f"{prefix}/{name}") for item_id, name in chosen.items()], n_ignored


def _is_video(name: str) -> bool:
    return Path(name).suffix.lower() in VIDEO_SUFFIXES


class NamesOnDisk:
    """Finds files whose names are on disk in another form of Unicode than in a table.

    Args:
        root: folder that the paths are relative to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listed: dict[PurePosixPath, dict[str, str]] = {}

    def find(self, relative: str) -> str:
        """Return the path as it is on disk, or as it was given where there is no such file."""
        if relative.isascii():
            return relative
        found = PurePosixPath()
        for part in PurePosixPath(relative).parts:
            names = self._names(found)
            name = names.get(part, names.get(text_id(part)))
            if name is None:
                return relative
            found /= name
        return found.as_posix()

    def _names(self, folder: PurePosixPath) -> dict[str, str]:
        """Return the names in a folder by themselves and by their NFC."""
        if folder not in self._listed:
            try:
                with os.scandir(self._root / folder) as entries:
                    names = sorted(entry.name for entry in entries)
            except OSError:
                names = []
            by_form = {text_id(name): name for name in names}
            self._listed[folder] = by_form | {name: name for name in names}
        return self._listed[folder]
