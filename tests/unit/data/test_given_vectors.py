import unicodedata

import numpy as np
import polars as pl
import pytest

from sicsrec.data.given_vectors import read_given_vectors
from sicsrec.errors import DataError, SchemaError
from tests.unit.stage_one import make_catalog


def numbered_catalog(ids):
    catalog = make_catalog(["t"] * len(ids))
    return type(catalog)(catalog.frame.with_columns(pl.Series("item_id", ids)))


MATRIX = np.arange(12, dtype=np.float64).reshape(4, 3) + 1


def put_parquet(tmp_path, ids, vectors, dtype=None):
    path = tmp_path / "v.parquet"
    frame = pl.DataFrame({"item_id": ids, "vector": pl.Series(vectors, dtype=dtype)})
    frame.write_parquet(path)
    return path


def put_npy(tmp_path, array):
    path = tmp_path / "v.npy"
    np.save(path, array)
    return path


def test_npy_rows_go_to_the_items_of_that_number(tmp_path):
    """The catalogue is in another order than the file, as NineRec's item tables are."""
    vectors = read_given_vectors(put_npy(tmp_path, MATRIX), numbered_catalog(["2", "0", "3", "1"]))
    assert vectors.dtype == np.float32
    assert vectors.tolist() == MATRIX[[2, 0, 3, 1]].tolist()


@pytest.mark.parametrize("dtype", [pl.List(pl.Float64), pl.Array(pl.Float32, 3), pl.List(pl.Int64)])
def test_parquet_rows_go_to_the_items_of_that_id(tmp_path, dtype):
    path = put_parquet(tmp_path, ["c", "a", "b"], [[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype)
    vectors = read_given_vectors(path, numbered_catalog(["a", "b", "c"]))
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[4, 5, 6], [7, 8, 9], [1, 2, 3]]


def test_integer_ids_are_read_as_their_text(tmp_path):
    path = put_parquet(tmp_path, [1, 0], [[1.0], [2.0]])
    assert read_given_vectors(path, numbered_catalog(["0", "1"])).tolist() == [[2.0], [1.0]]


@pytest.mark.parametrize("ids", [[1.0, 0.0], [" 1", "0 "]])
def test_ids_are_read_as_those_of_the_items_are(tmp_path, ids):
    path = put_parquet(tmp_path, ids, [[1.0], [2.0]])
    assert read_given_vectors(path, numbered_catalog(["0", "1"])).tolist() == [[2.0], [1.0]]


def test_ids_meet_in_every_form_of_unicode(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    path = put_parquet(tmp_path, [decomposed, "0"], [[1.0], [2.0]])
    assert read_given_vectors(path, numbered_catalog(["0", composed])).tolist() == [[2.0], [1.0]]
    path = put_parquet(tmp_path, [decomposed, composed], [[1.0], [2.0]])
    with pytest.raises(DataError, match="1 item ids occur more than once"):
        read_given_vectors(path, numbered_catalog([composed]))


@pytest.mark.parametrize(
    ("ids", "vectors", "error", "message"),
    [
        (["a", "b"], [[1.0], [2.0]], DataError, "1 items of the catalogue have no vector.*'c'"),
        (["a", "b", "c", "x"], [[1.0]] * 4, DataError, "1 vectors belong to no item.*'x'"),
        (["a", "b", "c", "a"], [[1.0]] * 4, DataError, "more than once.*'a'"),
        (["a", "b", "c", None], [[1.0]] * 4, DataError, "1 are null"),
        (["a", "b", "c"], [[1.0], [2.0, 3.0], [4.0]], SchemaError, "same width.*'b'"),
        (["a", "b", "c"], [[1.0], None, [4.0]], SchemaError, "same width.*'b'"),
        (["a", "b", "c"], [None, None, [4.0]], SchemaError, r"2 items have none .*'a', 'b'\]"),
        (["a", "b", "c"], [[], [], [4.0, 5.0]], SchemaError, "2 items .* 0 another width than 2"),
        (["a", "b", "c"], [[], [], []], SchemaError, "vector|width"),
        (["a", "b", "c"], [[1.0], [float("nan")], [4.0]], DataError, "not finite.*'b'"),
        (["a", "b", "c"], [[1.0], [float("inf")], [4.0]], DataError, "not finite.*'b'"),
        (["a", "b", "c"], [[1.0], [None], [4.0]], DataError, "not finite.*'b'"),
        (["a", "b", "c"], [["x"], ["y"], ["z"]], SchemaError, "list of numbers"),
        ([["a"], ["b"], ["c"]], [[1.0]] * 3, SchemaError, r"item_id must be .* found List\(Str"),
        ([1.0, 2.0, float("nan")], [[1.0]] * 3, DataError, "1 are null"),
        (["a", "b", "c"], [1.0, 2.0, 3.0], SchemaError, "item_id and vector"),
    ],
)
def test_parquet_that_does_not_fit_is_refused(tmp_path, ids, vectors, error, message):
    path = put_parquet(tmp_path, ids, vectors)
    with pytest.raises(error, match=message) as caught:
        read_given_vectors(path, numbered_catalog(["a", "b", "c"]))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("nothing", [None, []])
@pytest.mark.parametrize("dtype", [pl.List(pl.Float32), pl.Array(pl.Float32, 0)])
def test_vectors_that_are_all_null_or_empty_are_none(tmp_path, nothing, dtype):
    path = put_parquet(tmp_path, ["a", "b"], [nothing, nothing], dtype)
    with pytest.raises(SchemaError, match="no item has a vector"):
        read_given_vectors(path, numbered_catalog(["a", "b"]))


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.ones((3, 2)), DataError, "1 items of the catalogue have no vector.*'3'"),
        (np.ones((5, 2)), DataError, "1 vectors belong to no item.*'4'"),
        (np.ones(4), SchemaError, r"\[4\]"),
        (np.ones((4, 2, 1)), SchemaError, r"\[4, 2, 1\]"),
        (np.ones((4, 0)), SchemaError, r"\[4, 0\]"),
        (np.array([["a"]] * 4), SchemaError, "expected numbers"),
        (np.array([[1.0], [2.0], [np.nan], [1.0]]), DataError, "not finite.*'2'"),
        (np.array([[None]] * 4, dtype=object), SchemaError, "no readable npy"),
    ],
)
def test_npy_that_does_not_fit_is_refused(tmp_path, array, error, message):
    path = put_npy(tmp_path, array)
    with pytest.raises(error, match=message) as caught:
        read_given_vectors(path, numbered_catalog(["0", "1", "2", "3"]))
    assert str(path) in str(caught.value)


def test_npy_rows_without_such_ids_are_misaligned(tmp_path):
    with pytest.raises(DataError, match="give a Parquet file"):
        read_given_vectors(put_npy(tmp_path, np.ones((2, 2))), numbered_catalog(["a", "b"]))


def test_values_too_large_for_single_precision_are_not_finite(tmp_path):
    path = put_parquet(tmp_path, ["0"], [[1e300]])
    for given in (path, put_npy(tmp_path, np.array([[1e300]]))):
        with pytest.raises(DataError, match="not finite"):
            read_given_vectors(given, numbered_catalog(["0"]))


@pytest.mark.parametrize("suffix", [".NPY", ".Parquet"])
def test_the_ends_of_names_may_have_capital_letters(tmp_path, suffix):
    matrix = np.array([[1.0, 2.0]], dtype=np.float32)
    path = put_npy(tmp_path, matrix)
    if suffix == ".Parquet":
        path = put_parquet(tmp_path, ["0"], matrix.tolist())
    given = path.rename(path.with_suffix(suffix))
    assert np.array_equal(read_given_vectors(given, numbered_catalog(["0"])), matrix)


@pytest.mark.parametrize("name", ["v.npy", "v.parquet"])
def test_files_that_are_no_such_files_are_named(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(DataError, match="no vector file"):
        read_given_vectors(path, numbered_catalog(["a"]))
    path.write_bytes(b"not a table")
    with pytest.raises(SchemaError, match="no readable"):
        read_given_vectors(path, numbered_catalog(["a"]))


def test_archives_and_other_formats_are_refused(tmp_path):
    np.savez(tmp_path / "v.npz", a=np.ones((1, 1)))
    with pytest.raises(SchemaError, match=r"\.parquet or a \.npy"):
        read_given_vectors(tmp_path / "v.npz", numbered_catalog(["a"]))
    (tmp_path / "v.npz").rename(tmp_path / "v.npy")
    with pytest.raises(SchemaError, match="several arrays"):
        read_given_vectors(tmp_path / "v.npy", numbered_catalog(["a"]))
