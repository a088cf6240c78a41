import unicodedata

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sicsrec.data.ids import composed_ids, text_id, text_id_column, text_ids, written_ids

FORMS = [unicodedata.normalize(form, "Amélie") for form in ("NFC", "NFD")]


@pytest.mark.parametrize("form", FORMS)
def test_an_id_is_the_same_in_every_form(form):
    assert text_id(form) == FORMS[0]
    assert text_ids([form, "7", 8], "ids") == [FORMS[0], "7", "8"]
    assert text_id_column(pl.Series([form, "7"])).to_list() == [FORMS[0], "7"]
    assert written_ids(pl.Series([f" {form}\t", "7 ", None])).to_list() == [FORMS[0], "7", None]


@given(st.lists(st.none() | st.text()))
def test_columns_and_single_ids_agree(texts):
    column = pl.Series(texts, dtype=pl.String)
    assert composed_ids(column).to_list() == [text and text_id(text) for text in texts]


def test_ascii_stays_as_it_is():
    column = pl.Series(["7", "a b", None, ""])
    assert composed_ids(column) is column
