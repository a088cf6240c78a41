"""MicroLens as it is downloaded; raw videos are read only where there is no folder of covers."""

from collections import Counter
from pathlib import Path

from sicsrec.config import MicroLensReaderConfig
from sicsrec.data.quarantine import QuarantineLog
from sicsrec.data.readers.base import RawData
from sicsrec.data.readers.delimited import Dialect, read_delimited
from sicsrec.data.readers.folders import find_one, find_optional, list_covers
from sicsrec.data.readers.ninerec import read_pairs_or_sequences
from sicsrec.data.readers.rows import ITEM_WORDS, item_rows
from sicsrec.paths import printable

_TITLES = Dialect(
    columns=("item", "title"),
    header_words={"item": ITEM_WORDS | {"id"}, "title": frozenset({"title", "name"})},
)


def read_microlens(root: Path, config: MicroLensReaderConfig) -> RawData:  # noqa: ARG001
    """Read ``*_titles.csv``, ``*_pairs.csv`` (with times) or ``*_pairs.tsv``, and ``*_covers/``.

    Without a folder of covers, a frame of each video in ``*_videos/`` is taken instead.

    Raises:
        DataError: if a file is missing, naming what was looked for.
    """
    quarantine = QuarantineLog()
    n_rows: Counter[str] = Counter()
    path = find_one(root, ("*_titles.csv", "*_title*.csv"), "file of titles")
    titles = read_delimited(
        path, printable(path.name), _TITLES, ("item", "title"), "item", n_rows, quarantine
    )
    covers_root = find_optional(
        root, ("*_covers", "*_cover", "*_videos", "*_video"), "folder of covers"
    )
    covers, n_ignored = list_covers(covers_root, root, quarantine) if covers_root else ([], 0)
    return RawData(
        items=item_rows(titles, quarantine, item_id="item", title="title"),
        interactions=read_pairs_or_sequences(
            root, ("*_pairs.csv",), ("*_pairs.tsv",), n_rows, quarantine
        ),
        root=root,
        covers_root=covers_root,
        covers=covers,
        n_rows=n_rows,
        quarantine=quarantine,
        counts={"cover_files_ignored": n_ignored},
    )
