"""NineRec, as released or as the reference code of the paper lays it out."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from sicsrec.config import NineRecReaderConfig
from sicsrec.data.quarantine import QuarantineLog
from sicsrec.data.readers.base import RawData
from sicsrec.data.readers.delimited import Dialect, read_delimited
from sicsrec.data.readers.folders import find_one, find_optional, list_covers
from sicsrec.data.readers.rows import (
    ITEM_WORDS,
    PAIRS_DIALECT,
    SEQUENCE_DIALECT,
    interaction_rows,
    item_rows,
    sequence_rows,
)
from sicsrec.paths import printable

_ITEMS = Dialect(
    columns=("item_id", "zh", "en"),
    header_words={
        "item_id": ITEM_WORDS | {"id"},
        "zh": frozenset({"zh", "cn", "chinese", "title_zh", "zh_title", "chinese_title"}),
        "en": frozenset({"en", "english", "title_en", "en_title", "english_title"}),
    },
)

_PAIR_FILES = ("*_pair.csv",)
_SEQUENCE_FILES = ("*_behaviour.tsv", "*_behavior.tsv", "sequential_data.txt")


def read_ninerec(root: Path, config: NineRecReaderConfig) -> RawData:
    """Read items with a Chinese and an English title, interactions, and covers where present.

    The released ``X_pair.csv`` (with times) is preferred to ``X_behaviour.tsv`` and to the
    reference layout's ``sequential_data.txt`` (order only).

    Raises:
        DataError: if a file is missing, naming what was looked for.
    """
    quarantine = QuarantineLog()
    n_rows: Counter[str] = Counter()
    path = find_one(root, ("*_item.csv",), "file of items")
    items = read_delimited(
        path,
        printable(path.name),
        _ITEMS,
        ("item_id", config.title_language),
        "item",
        n_rows,
        quarantine,
    )
    covers_root = find_optional(root, ("*_cover", "*_covers"), "folder of covers")
    covers, n_ignored = list_covers(covers_root, root, quarantine) if covers_root else ([], 0)
    titled = item_rows(items, quarantine, item_id="item_id", title=config.title_language)
    return RawData(
        items=titled.with_columns(language=pl.lit(config.title_language)),
        interactions=read_pairs_or_sequences(
            root, _PAIR_FILES, _SEQUENCE_FILES, n_rows, quarantine
        ),
        root=root,
        covers_root=covers_root,
        covers=covers,
        n_rows=n_rows,
        quarantine=quarantine,
        counts={"cover_files_ignored": n_ignored},
    )


def read_pairs_or_sequences(
    root: Path,
    pair_files: Sequence[str],
    sequence_files: Sequence[str],
    n_rows: Counter[str],
    quarantine: QuarantineLog,
) -> pl.DataFrame:
    """Return raw interactions out of user-item-time rows or, failing these, user sequences.

    Args:
        root: the data folder.
        pair_files: patterns of the file with one interaction per row.
        sequence_files: patterns of the file with one user per line.
        n_rows: told how many rows were read.
        quarantine: receives broken rows.

    Raises:
        DataError: if there is neither.
    """
    path = find_one(root, (*pair_files, *sequence_files), "file of interactions")
    if any(path.match(pattern) for pattern in pair_files):
        columns = ("user", "item", "timestamp")
        table = read_delimited(
            path, printable(path.name), PAIRS_DIALECT, columns, "interaction", n_rows, quarantine
        )
        return interaction_rows(
            table, quarantine, user_id="user", item_id="item", timestamp="timestamp"
        )
    table = read_delimited(
        path, printable(path.name), SEQUENCE_DIALECT, ("line",), "interaction", n_rows, quarantine
    )
    return sequence_rows(table, n_rows, quarantine)
