import doctest

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sicsrec.data import vectors
from sicsrec.data.vectors import read_vectors, write_vectors
from sicsrec.errors import DataError, SchemaError
from tests.unit.stage_one import make_catalog

INDICES = np.array([1, 3, 4, 9], dtype=np.int32)
MATRIX = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("cuts", [None, [1], [2, 3], [0, 4]])
def test_what_is_written_is_read_by_item(tmp_path, monkeypatch, dtype, cuts):
    monkeypatch.setattr(vectors, "_ROWS_AT_A_TIME", 3)
    catalog, matrix = make_catalog(), MATRIX.astype(dtype)
    parts = matrix if cuts is None else np.split(matrix, cuts)
    write_vectors(tmp_path, "text", catalog, INDICES, parts)
    found = read_vectors(tmp_path, "text", catalog)
    assert np.flatnonzero(found.present).tolist() == (INDICES - 1).tolist()
    assert found.matrix.dtype == np.float32
    np.testing.assert_array_equal(found.matrix[INDICES - 1], matrix.astype(np.float32))
    assert not found.matrix[~found.present].any()
    assert found.tensor.data_ptr() == found.matrix.ctypes.data


def test_other_programs_see_a_plain_table(tmp_path):
    write_vectors(tmp_path, "text", make_catalog(), INDICES, MATRIX)
    frame = pl.read_parquet(tmp_path / "text.parquet")
    assert dict(frame.schema) == {
        "item_id": pl.String,
        "item_index": pl.Int32,
        "vector": pl.Array(pl.Float32, 5),
    }
    assert frame["item_id"].to_list() == ["i0", "i2", "i3", "i8"]
    assert frame["item_index"].to_list() == INDICES.tolist()
    np.testing.assert_array_equal(frame["vector"].to_numpy(), MATRIX)


def test_rows_go_by_id_wherever_they_stand(tmp_path):
    catalog = make_catalog()
    write_vectors(tmp_path, "text", catalog, INDICES, MATRIX)
    table = pq.read_table(tmp_path / "text.parquet")
    pq.write_table(table.take([2, 0, 3, 1]), tmp_path / "text.parquet")
    found = read_vectors(tmp_path, "text", catalog)
    np.testing.assert_array_equal(found.matrix[INDICES - 1], MATRIX)


def test_no_vectors_at_all(tmp_path):
    catalog = make_catalog()
    write_vectors(tmp_path, "image", catalog, INDICES[:0], MATRIX[:0])
    assert not read_vectors(tmp_path, "image", catalog).present.any()
    assert read_vectors(tmp_path, "text", catalog) is None


def test_vectors_without_an_item_of_their_own_are_refused(tmp_path):
    catalog = make_catalog()
    for indices, parts, message in (
        (INDICES[:3], MATRIX, "more vectors"),
        (INDICES, [MATRIX[:2], MATRIX[:1]], "more items"),
        (np.array([1, 1, 2, 3]), MATRIX, "own"),
        (INDICES, np.where(MATRIX > 1, np.nan, MATRIX).astype(np.float32), "finite"),
    ):
        with pytest.raises(DataError, match=message):
            write_vectors(tmp_path, "text", catalog, indices, parts)


def table(**columns):
    number = pa.array(MATRIX.reshape(-1))
    return pa.table(
        {
            "item_id": ["i0", "i2", "i3", "i8"],
            "vector": pa.FixedSizeListArray.from_arrays(number, 5),
            **columns,
        }
    )


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"vector": MATRIX.tolist()}, SchemaError, "fixed-size list"),
        ({"item_id": [0, 1, 2, 3]}, SchemaError, "item_id"),
        ({"item_id": ["i0", "i0", "i1", "i2"]}, DataError, "more than once"),
        ({"item_id": ["i0", "x", "i1", "i2"]}, DataError, "not in the catalogue"),
        (
            {"vector": pa.array([[1.0], None, [2.0], [3.0]], pa.list_(pa.float32(), 1))},
            DataError,
            "missing",
        ),
        (
            {"vector": pa.array([[1.0], [None], [2.0], [3.0]], pa.list_(pa.float32(), 1))},
            DataError,
            "numbers in them are missing",
        ),
    ],
)
def test_files_that_are_no_vectors_are_refused(tmp_path, columns, error, message):
    pq.write_table(table(**columns), tmp_path / "text.parquet")
    with pytest.raises(error, match=message):
        read_vectors(tmp_path, "text", make_catalog())


def test_examples_in_the_docstrings():
    assert doctest.testmod(vectors, extraglobs={"np": np}) == (0, 1)
