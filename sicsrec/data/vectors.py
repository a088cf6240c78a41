"""Item vectors in Parquet: keyed by item id, never by position.

One file per modality, ``<modality>.parquet``, with the columns ``item_id``, ``item_index`` and
``vector`` (fixed-size list of float32). An item without the modality has no row; there are no
silent zeros. ``vectors.json`` beside them says how they were made.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sicsrec.data.catalog import ItemCatalog
from sicsrec.errors import DataError, SchemaError

MODALITIES = ("text", "image")


@dataclass(frozen=True)
class ItemVectors:
    """Vectors of one modality for all items of a catalogue."""

    modality: str
    matrix: NDArray[np.float32]
    """[N, D]; row r belongs to index r + 1; rows of items without the modality are 0 and must be
    masked by ``present``."""
    present: NDArray[np.bool_]
    """[N]; whether the item has the modality."""


def write_vectors(
    folder: Path,
    modality: str,
    catalog: ItemCatalog,
    item_indices: NDArray[np.integer],
    matrix: NDArray[np.float32],
) -> None:
    """Write the vectors of some items.

    Args:
        folder: where ``<modality>.parquet`` goes.
        modality: one of :data:`MODALITIES`.
        catalog: gives the item ids.
        item_indices: [n], ascending item indices.
        matrix: [n, D], row r belongs to ``item_indices[r]``.

    Raises:
        DataError: if lengths differ, an index is doubled, or a value is not finite.
    """
    if len(item_indices) != len(matrix) or len(np.unique(item_indices)) != len(item_indices):
        raise DataError(f"{modality} vectors: every vector needs one item of its own")
    if not np.isfinite(matrix).all():
        raise DataError(f"{modality} vectors: some values are not finite numbers")
    values = np.ascontiguousarray(matrix, dtype=np.float32)
    pl.DataFrame(
        {
            "item_id": catalog.ids_of(item_indices),
            "item_index": pl.Series(item_indices, dtype=pl.Int32),
            "vector": pl.Series(values, dtype=pl.Array(pl.Float32, values.shape[1])),
        }
    ).write_parquet(folder / f"{modality}.parquet")


def read_vectors(folder: Path, modality: str, catalog: ItemCatalog) -> ItemVectors | None:
    """Read one modality for all items of ``catalog``; None when there is no such file.

    Raises:
        SchemaError: if the file's columns are not those of a vector table.
        DataError: if an item id is unknown or doubled.
    """
    path = folder / f"{modality}.parquet"
    if not path.exists():
        return None
    frame = pl.read_parquet(path)
    vector = frame.schema.get("vector")
    if frame.schema.get("item_id") != pl.String or not isinstance(vector, pl.Array):
        raise SchemaError(
            f"{path}: expected item_id (string) and vector (fixed-size list of float)"
        )
    if frame["item_id"].n_unique() != frame.height:
        raise DataError(f"{path}: some item ids occur more than once")
    rows = catalog.indices_of(frame["item_id"]) - 1
    matrix = np.zeros((catalog.n_items, vector.shape[0]), dtype=np.float32)
    matrix[rows] = frame["vector"].to_numpy()
    present = np.zeros(catalog.n_items, dtype=np.bool_)
    present[rows] = True
    return ItemVectors(modality, matrix, present)
