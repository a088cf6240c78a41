import numpy as np
import polars as pl
import pytest

from sicsrec.data.catalog import ItemCatalog
from sicsrec.errors import DataError
from tests.unit.stage_one import make_catalog


def test_items_stand_in_the_order_of_their_index_whatever_the_order_of_the_rows():
    frame = make_catalog().frame
    backwards = frame.sort("item_index", descending=True)
    assert ItemCatalog(backwards).frame.equals(frame)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("item_id", ["a", "b", "a"], "unique and not null"),
        ("item_id", ["a", None, "b"], "unique and not null"),
        ("item_index", [0, 1, 2], r"count 1\.\.N"),
        ("item_index", [1, 2, 2], r"count 1\.\.N"),
        ("item_index", [1, 2, 4], r"count 1\.\.N"),
        ("image_status", ["ok", "lost", "missing"], "unknown image_status .'lost'"),
    ],
)
def test_a_table_that_is_no_catalogue_is_refused(column, values, message):
    frame = make_catalog(["one", "two", "three"]).frame
    other = frame.with_columns(pl.Series(column, values, dtype=frame.schema[column]))
    with pytest.raises(DataError, match=message):
        ItemCatalog(other)


def test_ids_and_indices_lead_to_each_other():
    catalog = make_catalog()
    indices = np.array([10, 1, 7, 1], dtype=np.int32)
    assert catalog.ids_of(indices).to_list() == ["i9", "i0", "i6", "i0"]
    assert catalog.indices_of(catalog.ids_of(indices)).tolist() == indices.tolist()


@pytest.mark.parametrize("index", [-1, 0, 11])
def test_an_index_outside_the_catalogue_has_no_id(index):
    with pytest.raises(DataError, match=r"must lie in 1\.\.10"):
        make_catalog().ids_of(np.array([3, index]))
