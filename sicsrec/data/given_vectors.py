"""Item vectors that users bring, checked against the catalogue before anything trusts them.

The reference matches image vectors to items by position in a sorted folder listing, so that one
missing cover shifts every vector after it. Here an id decides, and every fault is an error.
"""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.readers.tables import read_ids
from sicsrec.errors import DataError, SchemaError


def read_given_vectors(path: Path, catalog: ItemCatalog) -> NDArray[np.float32]:
    """Read one vector for every item of the catalogue, in the order of its index.

    Args:
        path: ``.parquet`` with the columns ``item_id`` and ``vector`` (a list or fixed-size list of
            numbers), or ``.npy`` whose row r belongs to the item with the id ``str(r)``.
        catalog: all items.

    Returns:
        [N, D]; row r belongs to index r + 1.

    Raises:
        SchemaError: if columns, types or dimensions are not these, or a vector is null or empty.
        DataError: if an item has no vector or two, an id is unknown, or a value is not finite.
    """
    if not path.is_file():
        raise DataError(f"encode_items.source: there is no vector file {path}")
    readers = {".parquet": _read_parquet, ".npy": _read_npy}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise SchemaError(f"{path}: given vectors must be a .parquet or a .npy file")
    matrix = readers[suffix](path, catalog)
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise DataError(
            f"{path}: {len(bad)} items have values that are not finite numbers, e.g. "
            f"{_ids(catalog, bad)}"
        )
    return matrix


def _read_npy(path: Path, catalog: ItemCatalog) -> NDArray[np.float32]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as err:
        raise SchemaError(f"{path} is no readable npy file of numbers: {err}") from err
    if not isinstance(array, np.ndarray):
        raise SchemaError(f"{path} holds several arrays; give a .npy file with one")
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "fiu":
        raise SchemaError(
            f"{path}: expected numbers of the shape [items, width], found {array.dtype} "
            f"{list(array.shape)}"
        )
    row_of = pl.DataFrame({"item_id": [str(row) for row in range(len(array))]}).with_row_index(
        "row"
    )
    items = catalog.frame.select("item_id")
    rows = items.join(row_of, on="item_id", how="left", maintain_order="left")["row"]
    _check_ids(
        path,
        missing=items.filter(rows.is_null())["item_id"],
        unknown=row_of.join(items, on="item_id", how="anti")["item_id"],
        hint="row r belongs to the item with the id r; with other ids give a Parquet file",
    )
    # What is too large for float32 becomes infinite and is reported as not finite.
    with np.errstate(over="ignore"):
        return np.asarray(array[rows.to_numpy()], dtype=np.float32)


def _read_parquet(path: Path, catalog: ItemCatalog) -> NDArray[np.float32]:
    try:
        frame = pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError) as err:
        raise SchemaError(f"{path} is no readable Parquet file: {err}") from err
    vector = frame.schema.get("vector")
    if "item_id" not in frame.columns or not isinstance(vector, pl.List | pl.Array):
        raise SchemaError(
            f"{path}: expected the columns item_id and vector (a list of numbers), found "
            f"{dict(frame.schema)}"
        )
    if not (vector.inner is not None and _is_number(vector.inner)):
        raise SchemaError(f"{path}: vector must be a list of numbers, found {vector}")
    id_type = frame.schema["item_id"]
    if not (_is_number(id_type) or isinstance(id_type, pl.String | pl.Categorical | pl.Enum)):
        raise SchemaError(f"{path}: item_id must be text or a number, found {id_type}")
    frame = frame.select(read_ids(frame), "vector")
    doubled = frame.filter(pl.col("item_id").is_duplicated())["item_id"].unique(maintain_order=True)
    if len(doubled) or frame["item_id"].null_count():
        raise DataError(
            f"{path}: {len(doubled)} item ids occur more than once "
            f"(e.g. {doubled.head(3).to_list()}), {frame['item_id'].null_count()} are null"
        )
    items = catalog.frame.select("item_id")
    _check_ids(
        path,
        missing=items.join(frame, on="item_id", how="anti", maintain_order="left")["item_id"],
        unknown=frame.join(items, on="item_id", how="anti", maintain_order="left")["item_id"],
        hint="the ids must be those of the catalogue, every one once",
    )
    ordered = items.join(frame, on="item_id", how="left", maintain_order="left")
    return _stack(path, ordered)


def _stack(path: Path, ordered: pl.DataFrame) -> NDArray[np.float32]:
    """Return the vectors of ``ordered`` as one matrix."""
    as_list = ordered["vector"]
    if isinstance(as_list.dtype, pl.Array):
        as_list = as_list.arr.to_list()
    # An empty vector is none.
    lengths = as_list.list.len().replace(0, None)
    width: int = max(lengths.drop_nulls().mode().to_list(), default=0)
    if not width:
        raise SchemaError(f"{path}: no item has a vector; all are null or empty")
    missing = ordered.filter(lengths.is_null())["item_id"]
    others = ordered.filter(lengths != width)["item_id"]
    if len(missing) or len(others):
        raise SchemaError(
            f"{path}: every item must have a vector, and all the same width; {len(missing)} items "
            f"have none (e.g. {missing.head(3).to_list()}), {len(others)} another width than "
            f"{width} (e.g. {others.head(3).to_list()})"
        )
    # A null inside a vector becomes NaN and is reported as not finite.
    flat = as_list.explode().cast(pl.Float32).to_numpy()
    return np.ascontiguousarray(flat.reshape(len(ordered), width))


def _is_number(dtype: object) -> bool:
    return isinstance(dtype, pl.DataType) and dtype.is_numeric()


def _check_ids(path: Path, missing: pl.Series, unknown: pl.Series, hint: str) -> None:
    if len(missing) or len(unknown):
        raise DataError(
            f"{path}: {len(missing)} items of the catalogue have no vector "
            f"(e.g. {missing.head(3).to_list()}), {len(unknown)} vectors belong to no item "
            f"(e.g. {unknown.head(3).to_list()}); {hint}"
        )


def _ids(catalog: ItemCatalog, rows: NDArray[np.intp]) -> list[str]:
    return catalog.item_ids.gather(rows[:3]).to_list()
