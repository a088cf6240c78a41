"""Item vectors in Parquet: keyed by item id, never by position.

One file per modality, ``<modality>.parquet``, with the columns ``item_id``, ``item_index`` and
``vector`` (fixed-size list of float32 or float16). An item without the modality has no row; there
are no silent zeros. ``vectors.json`` beside them says how they were made.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from sicsrec.data.catalog import ItemCatalog
from sicsrec.errors import DataError, SchemaError

MODALITIES = ("text", "image")

_ROWS_AT_A_TIME = 16_384

Matrix = NDArray[np.float32] | NDArray[np.float16]


@dataclass(frozen=True)
class ItemVectors:
    """Vectors of one modality for all items of a catalogue."""

    modality: str
    matrix: NDArray[np.float32]
    """[N, D]; row r belongs to index r + 1; rows of items without the modality are 0 and must be
    masked by ``present``."""
    present: NDArray[np.bool_]
    """[N]; whether the item has the modality."""

    @property
    def tensor(self) -> torch.Tensor:
        """:attr:`matrix` as a tensor of the same memory."""
        return torch.from_numpy(self.matrix)


def unit_rows(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale the rows of a matrix [N, D] to unit length; rows of 0 stay 0.

    Example:
        >>> unit_rows(np.array([[0.0, -2.0], [0.0, 0.0]], dtype=np.float32)).tolist()
        [[0.0, -1.0], [0.0, 0.0]]
    """
    unit: NDArray[np.float32] = matrix / np.maximum(
        np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12
    )
    return unit


def write_vectors(
    folder: Path,
    modality: str,
    catalog: ItemCatalog,
    item_indices: NDArray[np.integer],
    parts: Matrix | Iterable[Matrix],
) -> None:
    """Write the vectors of some items.

    Args:
        folder: where ``<modality>.parquet`` goes.
        modality: one of :data:`MODALITIES`.
        catalog: gives the item ids.
        item_indices: [n], ascending item indices.
        parts: [n, D], row r belongs to ``item_indices[r]``; or the same rows in several parts,
            only one of which is in memory at a time.

    Raises:
        DataError: if lengths differ, an index is doubled, or a value is not finite.
    """
    if len(np.unique(item_indices)) != len(item_indices):
        raise DataError(f"{modality} vectors: every vector needs one item of its own")
    matrices = _in_pieces(parts) if isinstance(parts, np.ndarray) else iter(parts)
    first = next(matrices, np.zeros((0, 1), dtype=np.float32))
    schema = _schema(first)
    start = 0
    # Vectors hardly compress, and statistics of their numbers say nothing.
    with pq.ParquetWriter(
        folder / f"{modality}.parquet",
        schema,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
    ) as writer:
        for matrix in chain([first], matrices):
            indices = item_indices[start : start + len(matrix)]
            if len(indices) != len(matrix):
                raise DataError(f"{modality} vectors: there are more vectors than items")
            if not np.isfinite(matrix).all():
                raise DataError(f"{modality} vectors: some values are not finite numbers")
            writer.write_table(_to_table(catalog, indices, matrix, schema))
            start += len(matrix)
    if start != len(item_indices):
        raise DataError(f"{modality} vectors: there are more items than vectors")


def read_vectors(folder: Path, modality: str, catalog: ItemCatalog) -> ItemVectors | None:
    """Read one modality for all items of ``catalog``; None when there is no such file.

    Numbers go from the file's pages to the matrix, a row group at a time; none of them ever
    becomes a Python object, and beside the matrix there is one row group in memory.

    Raises:
        SchemaError: if the file's columns are not those of a vector table.
        DataError: if an item id is unknown or doubled, or a vector is missing.
    """
    path = folder / f"{modality}.parquet"
    if not path.exists():
        return None
    with pq.ParquetFile(path) as file:
        width = _check_columns(path, file.schema_arrow)
        ids = pl.Series("item_id", file.read(columns=["item_id"])["item_id"])
        if ids.n_unique() != len(ids):
            raise DataError(f"{path}: some item ids occur more than once")
        rows = catalog.indices_of(ids) - 1
        matrix = np.zeros((catalog.n_items, width), dtype=np.float32)
        start = 0
        for values in _read_matrices(path, file, width):
            matrix[rows[start : start + len(values)]] = values
            start += len(values)
    present = np.zeros(catalog.n_items, dtype=np.bool_)
    present[rows] = True
    return ItemVectors(modality, matrix, present)


def _in_pieces(matrix: Matrix) -> Iterator[Matrix]:
    for start in range(0, len(matrix), _ROWS_AT_A_TIME):
        yield matrix[start : start + _ROWS_AT_A_TIME]


def _schema(matrix: Matrix) -> pa.Schema:
    number = pa.field("element", pa.from_numpy_dtype(matrix.dtype), nullable=False)
    return pa.schema(
        [
            pa.field("item_id", pa.string(), nullable=False),
            pa.field("item_index", pa.int32(), nullable=False),
            pa.field("vector", pa.list_(number, matrix.shape[1]), nullable=False),
        ]
    )


def _to_table(
    catalog: ItemCatalog, indices: NDArray[np.integer], matrix: Matrix, schema: pa.Schema
) -> pa.Table:
    flat = pa.array(np.ascontiguousarray(matrix).reshape(-1))
    columns = [
        pa.array(catalog.ids_of(indices).to_list(), pa.string()),
        pa.array(indices.astype(np.int32)),
        pa.FixedSizeListArray.from_arrays(flat, type=schema.field("vector").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _check_columns(path: Path, schema: pa.Schema) -> int:
    """Return the width of the vectors.

    Raises:
        SchemaError: if the columns are not those of a vector table.
    """
    types = dict(zip(schema.names, schema.types, strict=True))
    vector = types.get("vector")
    is_text = types.get("item_id") in (pa.string(), pa.large_string())
    if not (
        is_text
        and vector is not None
        and pa.types.is_fixed_size_list(vector)
        and pa.types.is_floating(vector.value_type)
    ):
        raise SchemaError(
            f"{path}: expected item_id (string) and vector (fixed-size list of float), found "
            f"{ {name: str(kind) for name, kind in types.items()} }"
        )
    return int(vector.list_size)


def _read_matrices(path: Path, file: pq.ParquetFile, width: int) -> Iterator[Matrix]:
    """Yield the numbers of the vector column as [rows, width], in the memory they are read to."""
    # Not iter_batches, which keeps every row group in memory until the last one is read.
    for group in range(file.num_row_groups):
        try:
            column = file.read_row_group(group, columns=["vector"])["vector"]
        except pa.ArrowInvalid as err:
            raise DataError(f"{path}: some vectors are missing or of another width") from err
        for chunk in column.chunks:
            values = chunk.flatten()
            if chunk.null_count or values.null_count:
                raise DataError(f"{path}: some vectors or numbers in them are missing")
            yield values.to_numpy(zero_copy_only=True).reshape(-1, width)
