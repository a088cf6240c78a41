import unicodedata
from collections import Counter

import polars as pl
import pytest

from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.quarantine import QuarantineLog
from sicsrec.data.readers.base import RAW_INTERACTIONS, RAW_ITEMS
from sicsrec.data.validation import (
    build_catalog_frame,
    check_bad_cover_share,
    check_bad_share,
    keep_first_rows,
    keep_known_items,
    order_interactions,
)
from sicsrec.errors import DataError


def items_of(*rows):
    full = [
        (item_id, title, description, "en", topics, None, "items.csv", row)
        for row, (item_id, title, description, topics) in enumerate(rows, start=1)
    ]
    return pl.DataFrame(full, schema=dict(RAW_ITEMS), orient="row")


def interactions_of(*rows):
    full = [
        (user, item, time, order, None, "log.csv", order + 1)
        for order, (user, item, time) in enumerate(rows)
    ]
    return pl.DataFrame(full, schema=dict(RAW_INTERACTIONS), orient="row")


def test_first_row_of_an_id_is_kept_and_the_others_are_told_apart():
    quarantine = QuarantineLog()
    kept = keep_first_rows(
        items_of(
            ("2", "B", None, []),
            ("1", "A", "x", ["p"]),
            ("1", "A", "x", ["p"]),
            ("1", "A!", "x", ["q"]),
            ("2", "B", "y", []),
        ),
        quarantine,
    )
    assert kept["row"].to_list() == [1, 2]
    assert quarantine.frame().select("row", "key", "reason", "detail").rows() == [
        (3, "1", "duplicate_id", "identical to row 2, which is kept"),
        (4, "1", "duplicate_id", "differs from row 2, which is kept, in title, topics"),
        (5, "2", "duplicate_id", "differs from row 1, which is kept, in description"),
    ]


def test_interactions_with_unknown_items_are_refused_in_order():
    quarantine = QuarantineLog()
    items = items_of(("1", "A", None, []), ("2", "B", None, []))
    log = interactions_of(("a", "2", 1), ("a", "9", 2), ("b", "1", 3))
    kept = keep_known_items(log, items, quarantine)
    assert kept["item_id"].to_list() == ["2", "1"]
    assert quarantine.frame().rows() == [
        ("interaction", "log.csv", 2, "9", "item_not_in_catalog", "of user a")
    ]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["10", "9", "1"], ["1", "9", "10"]),
        (["10", "9", "a"], ["10", "9", "a"]),
        (["10", "09", "1"], ["09", "1", "10"]),
        (["-1", "3", "2"], ["-1", "2", "3"]),
        (["99999999999999999999", "3"], ["3", "99999999999999999999"]),
    ],
)
def test_items_are_numbered_by_number_if_all_are_numbers(ids, expected):
    for order in (ids, ids[::-1]):
        frame = build_catalog_frame(items_of(*((i, "t", None, []) for i in order)), ("title",))
        assert ItemCatalog(frame).item_ids.to_list() == expected


def test_text_joins_the_fields_with_white_space_normalised():
    items = items_of(
        ("1", "A\n  title", "a \t text", []), ("2", None, "text", []), ("3", None, None, [])
    )
    frame = build_catalog_frame(items, ("title", "description"))
    assert frame["text"].to_list() == ["A title. a text", "text", None]
    assert build_catalog_frame(items, ("title",))["text"].to_list() == ["A title", None, None]


def test_texts_are_the_same_in_every_form_of_unicode():
    forms = [unicodedata.normalize(form, "Amélie") for form in ("NFC", "NFD")]
    items = items_of(("1", forms[0], None, []), ("2", forms[1], None, []))
    assert build_catalog_frame(items, ("title",))["text"].to_list() == [forms[0]] * 2


def test_ties_in_time_keep_the_order_of_the_input():
    log = interactions_of(("b", "1", 5), ("a", "3", 7), ("a", "1", 7), ("a", "2", 6), ("a", "4", 7))
    ordered = order_interactions(log)
    assert ordered.select("user_id", "item_id", "position").rows() == [
        ("a", "2", 0),
        ("a", "3", 1),
        ("a", "1", 2),
        ("a", "4", 3),
        ("b", "1", 0),
    ]
    shuffled = order_interactions(log.sample(fraction=1.0, shuffle=True, seed=1))
    assert shuffled.equals(ordered)


def test_too_many_bad_rows_are_an_error_that_says_what_to_do():
    quarantine = QuarantineLog()
    for row in (2, 3):
        quarantine.add("item", "items.csv", row, None, "wrong_field_count", f"line {row + 1}: 2")
    quarantine.add("item", "items.csv", 7, "x", "empty_id", "the item id is empty")
    quarantine.add("item", "other.csv", 1, "x", "empty_id", "the item id is empty")
    rows = Counter({"items.csv": 10, "other.csv": 100})
    check_bad_share(quarantine, rows, 0.3, "ingest.max_bad_row_share")
    with pytest.raises(DataError) as caught:
        check_bad_share(quarantine, rows, 0.2, "ingest.max_bad_row_share")
    for words in (
        "3 of 10 rows of items.csv (30.0%)",
        "at most 20.0%",
        "2 wrong_field_count, 1 empty_id",
        "items.csv row 2: wrong_field_count (line 3: 2)",
        "items.csv row 7: empty_id 'x' (the item id is empty)",
        "raise ingest.max_bad_row_share",
    ):
        assert words in str(caught.value)


def check_covers(quarantine, n_present):
    ids = pl.Series(["1", "2"])
    check_bad_cover_share(quarantine, ids, n_present, 0.2, "ingest.max_bad_cover_share")


def test_too_many_bad_covers_are_an_error():
    quarantine = QuarantineLog()
    quarantine.add("cover", "covers/1.jpg", None, "1", "truncated", "OSError: cut")
    check_covers(quarantine, 5)
    with pytest.raises(
        DataError, match=r"1 of 4 covers \(25.0%\).*covers/1.jpg: truncated '1' \(O"
    ):
        check_covers(quarantine, 4)


def test_second_covers_count_among_the_files_and_those_of_other_items_nowhere():
    quarantine = QuarantineLog()
    for file, item in (("1.png", "1"), ("77.png", "77"), ("78.png", "78")):
        quarantine.add("cover", file, None, item, "duplicate_cover", "another is kept")
    check_covers(quarantine, 4)
    with pytest.raises(DataError, match=r"1 of 4 covers \(25.0%\).*First: 1.png"):
        check_covers(quarantine, 3)
