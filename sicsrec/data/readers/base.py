"""What every reader returns."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from sicsrec.data.covers import CoverFile
from sicsrec.data.quarantine import QuarantineLog
from sicsrec.data.schema import Schema

RAW_ITEMS: Schema = {
    "item_id": pl.String,
    "title": pl.String,
    "description": pl.String,
    "language": pl.String,
    "topics": pl.List(pl.String),
    "image": pl.String,
    "file": pl.String,
    "row": pl.Int64,
}
"""Items as they stand in the files, doubled ids included, in the order of the file. ``image`` is
the path of the cover where a column names it; null elsewhere."""

RAW_INTERACTIONS: Schema = {
    "user_id": pl.String,
    "item_id": pl.String,
    "timestamp": pl.Int64,
    "order": pl.Int64,
    "rating": pl.Float64,
    "file": pl.String,
    "row": pl.Int64,
}
"""``timestamp`` (milliseconds, UTC) is null in all rows or in none; ``order`` is the order of the
input, which decides between equal times; ``rating`` is null where the source has none."""


@dataclass(frozen=True)
class RawData:
    """Everything a reader found in a folder."""

    items: pl.DataFrame
    """Schema :data:`RAW_ITEMS`."""
    interactions: pl.DataFrame
    """Schema :data:`RAW_INTERACTIONS`."""
    root: Path
    """The data folder."""
    covers_root: Path | None
    """Folder that the cover files must stay inside; None: the source has no covers."""
    covers: list[CoverFile]
    """Cover files by item, also of items that do not exist; at most one per item."""
    n_rows: Counter[str]
    """Rows in every file that was read, broken ones included."""
    quarantine: QuarantineLog
    """Rows that could not be read. Later checks add theirs."""
    counts: dict[str, int] = field(default_factory=dict)
    """Further numbers for the report, by name."""
