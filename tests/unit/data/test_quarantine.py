import polars as pl
import pytest

from sicsrec.data.quarantine import QuarantineLog
from sicsrec.data.schema import QUARANTINE, check_schema
from sicsrec.paths import printable


def test_table_is_sorted_and_has_the_schema_even_when_empty():
    assert check_schema(QuarantineLog().frame(), QUARANTINE, "quarantine").height == 0
    quarantine = QuarantineLog()
    quarantine.add("item", "b.csv", 2, None, "empty_id", "")
    quarantine.extend(
        pl.DataFrame(
            {
                "kind": ["item", "cover"],
                "file": ["b.csv", "1.jpg"],
                "row": pl.Series([1, None], dtype=pl.Int32),
                "key": ["7", "1"],
                "reason": ["duplicate_id", "truncated"],
                "detail": ["", ""],
            }
        )
    )
    frame = check_schema(quarantine.frame(), QUARANTINE, "quarantine")
    assert frame.select("kind", "row").rows() == [("cover", None), ("item", 1), ("item", 2)]
    assert quarantine.counts() == {
        "cover": {"truncated": 1},
        "item": {"duplicate_id": 1, "empty_id": 1},
    }


def test_names_are_text_whatever_the_locale(monkeypatch):
    # What a Latin-1 locale makes of it.
    monkeypatch.setattr("os.fsencode", lambda name: name.encode("latin-1"))
    assert printable("二") == "二"
    assert printable("plat\udce9") == r"plat\xe9"


def test_reasons_come_from_the_list():
    with pytest.raises(ValueError, match="bad_luck"):
        QuarantineLog().add("item", "a", 1, None, "bad_luck", "")
