"""Column names and types of every table that passes between steps, stated once.

Item and user ids are strings, as the dataset says them. ``item_index`` is ours: 1..N in the order
of the catalogue, 0 is padding. Times are integer milliseconds since 1970, UTC.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from sicsrec.errors import SchemaError

# Any stands for a polars type: beartype, which checks calls in tests, refuses polars' own class.
Schema = Mapping[str, Any]

ITEMS: Schema = {
    "item_id": pl.String,
    "item_index": pl.Int32,
    "title": pl.String,
    "description": pl.String,
    "text": pl.String,
    "language": pl.String,
    "topics": pl.List(pl.String),
    "image_path": pl.String,
    "image_status": pl.String,
}
"""``text`` joins the configured text fields and is null when they are empty; ``image_path`` is
relative to the data folder; ``image_status`` is one of :data:`IMAGE_STATUSES`."""

IMAGE_STATUSES = ("ok", "missing", "broken")
"""``ok``: decoded; ``missing``: the item has no cover file; ``broken``: quarantined."""

COVERS: Schema = {"item_id": pl.String, "sha256": pl.String, "image": pl.Binary}
"""Verified covers as RGB image files (JPEG, PNG, WebP); ``sha256`` is that of the stored bytes."""

INTERACTIONS: Schema = {
    "user_id": pl.String,
    "item_id": pl.String,
    "timestamp": pl.Int64,
    "position": pl.Int32,
}
"""``position`` counts a user's interactions from 0 in time order (ties by input order);
``timestamp`` is null where the source gives only an order. Sorted by user_id, position."""

QUARANTINE: Schema = {
    "kind": pl.String,
    "file": pl.String,
    "row": pl.Int64,
    "key": pl.String,
    "reason": pl.String,
    "detail": pl.String,
}
"""``kind`` is item, interaction or cover; ``row`` counts the file's data rows from 1, null for
covers; ``key`` is the id in question; ``reason`` is one word from a fixed list."""

TARGETS: Schema = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}
"""One held-out target per user."""

PAIRS: Schema = {
    "anchor_id": pl.String,
    "positive_id": pl.String,
    "negative_ids": pl.List(pl.String),
    "source": pl.String,
}
"""``positive_id`` is null when the judge said that no candidate is similar; ``source`` names the
judge."""


def check_schema(frame: pl.DataFrame, schema: Schema, where: str) -> pl.DataFrame:
    """Return ``frame`` with exactly the schema's columns, in its order.

    Raises:
        SchemaError: naming ``where`` and every column that is missing or of another type.
    """
    faults = [
        f"{name}: expected {expected}, found {frame.schema.get(name, 'no such column')}"
        for name, expected in schema.items()
        if frame.schema.get(name) != expected
    ]
    if faults:
        raise SchemaError(f"{where}: " + "; ".join(faults))
    return frame.select(list(schema))
