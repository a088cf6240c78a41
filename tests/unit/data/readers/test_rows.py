import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sicsrec.data.quarantine import QuarantineLog
from sicsrec.data.readers.base import RAW_INTERACTIONS, RAW_ITEMS
from sicsrec.data.readers.delimited import Table
from sicsrec.data.readers.rows import (
    _parse_iso,
    _parse_usual_iso,
    interaction_rows,
    item_rows,
    parse_timestamps,
    sequence_rows,
    split_topics,
)
from sicsrec.errors import DataError


def table(**columns):
    n = len(next(iter(columns.values())))
    text = {name: pl.Series(values, dtype=pl.String) for name, values in columns.items()}
    return Table("f.csv", pl.DataFrame({**text, "row": pl.Series(range(1, n + 1), dtype=pl.Int64)}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("881250949", 881250949_000),
        (" 881250949 ", 881250949_000),
        ("1609459200123", 1609459200123),
        ("1609459200.5", 1609459200500),
        ("99999999999", 99999999999_000),
        ("100000000000", 100000000000),
        ("99999999999999", 99999999999999),
        ("100000000000000", None),
        ("0", 0),
        ("2021-01-01", 1609459200000),
        ("2021-01-01T00:00:00Z", 1609459200000),
        ("2021-01-01 01:00:00+01:00", 1609459200000),
        ("2021-01-01T00:00:00.5-01:30", 1609464600500),
        ("2021-01-01T00:00:00.123999", 1609459200123),
        ("4586-05-31T06:29:32.999999", 82566023372999),
        ("1970-01-01T00:59:59+01:00", None),
        ("2021-01-01T00:00:60", None),
        ("2021-02-30T00:00:00", None),
        ("2021-01-01T00:00:00+24:00", None),
        ("-5", None),
        ("1e20", None),
        ("nan", None),
        ("inf", None),
        ("yesterday", None),
        ("", None),
        (None, None),
        ("2021-13-01", None),
        ("1969-12-31", None),
    ],
)
def test_parse_timestamps(text, expected):
    assert parse_timestamps(pl.Series([text], dtype=pl.String)).to_list() == [expected]


@given(
    st.integers(-2_000_000_000_000_000, 10_000_000_000_000_000),
    st.sampled_from(["", "Z", "+00:00", "-00:30", "+14:00", "-23:59"]),
    st.sampled_from(["T", " "]),
    st.integers(0, 6),
)
def test_times_of_the_usual_form_are_read_together_and_as_one_by_one(
    microseconds, offset, gap, places
):
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    fraction = f".{moment.microsecond:06d}"[: places + 1] if places else ""
    text = f"{moment:%Y-%m-%d}{gap}{moment:%H:%M:%S}{fraction}{offset}"
    expected = _parse_iso(text)
    assert _parse_usual_iso(pl.Series([text])).to_list() == [expected]
    assert parse_timestamps(pl.Series([text, "soon"])).to_list() == [expected, None]


@given(st.integers(100_000_000, 7_000_000_000))
def test_seconds_milliseconds_and_iso_agree(seconds):
    moment = datetime.fromtimestamp(seconds, UTC)
    texts = [str(seconds), str(seconds * 1000), moment.isoformat()]
    assert parse_timestamps(pl.Series(texts)).to_list() == [seconds * 1000] * 3


@pytest.mark.parametrize(
    "texts",
    [
        ["20210304", "20210305", None, "soon"],
        ["2021", " 2022 "],
        ["202103", "202112"],
        ["20210304.0", "20210305.0"],
        ["20210304123000", "2021-03-04"],
        ["20210304"] * 20 + ["0"],
    ],
)
def test_dates_written_as_numbers_are_refused(texts):
    times = table(u=["a"] * len(texts), i=["1"] * len(texts), t=texts)
    with pytest.raises(DataError, match=r"f.csv: the times in the column 't' .*'2021.*ISO 8601"):
        interaction_rows(times, QuarantineLog(), user_id="u", item_id="i", timestamp="t")


@pytest.mark.parametrize(
    "texts", [["20210304", "20219999"], ["0", "1", "2021"], ["1600000000"], ["2021-03-04"], [None]]
)
def test_numbers_that_are_no_dates_are_times(texts):
    times = table(u=["a"] * len(texts), i=["1"] * len(texts), t=texts)
    rows = interaction_rows(times, QuarantineLog(), user_id="u", item_id="i", timestamp="t")
    assert rows.height == len([text for text in texts if text])


def test_items_without_id_are_refused_and_others_trimmed():
    quarantine = QuarantineLog()
    items = item_rows(
        table(i=[" 7 ", "", None, "8"], t=["  A ", "B", "C", " "], g=["x| y ||", "", None, "z"]),
        quarantine,
        item_id="i",
        title="t",
        topics=split_topics("g"),
    )
    assert dict(items.schema) == dict(RAW_ITEMS)
    assert items.select("item_id", "title", "topics", "row").rows() == [
        ("7", "A", ["x", "y"], 1),
        ("8", None, ["z"], 4),
    ]
    assert quarantine.frame().select("row", "reason").rows() == [(2, "empty_id"), (3, "empty_id")]


def test_interactions_that_cannot_be_read_are_refused_once_each():
    quarantine = QuarantineLog()
    rows = interaction_rows(
        table(
            u=["a", "", "a", "a", "", "a"],
            i=["1", "1", "", "1", "", "2"],
            t=["5", "5", "5", "soon", "soon", "6"],
            r=["1", "1", "1", "1", "1", "five"],
        ),
        quarantine,
        user_id="u",
        item_id="i",
        timestamp="t",
        rating="r",
    )
    assert dict(rows.schema) == dict(RAW_INTERACTIONS)
    assert rows.select("user_id", "item_id", "timestamp", "rating", "row").rows() == [
        ("a", "1", 5000, 1.0, 1)
    ]
    assert quarantine.frame().select("row", "reason", "detail").rows() == [
        (2, "empty_id", "the user id is empty"),
        (3, "empty_id", "the item id is empty"),
        (4, "bad_timestamp", "'soon' cannot be read as a time"),
        (5, "empty_id", "the user id is empty"),
        (6, "bad_rating", "'five' cannot be read as a number"),
    ]


def test_a_rating_that_is_no_finite_number_is_refused():
    quarantine = QuarantineLog()
    rows = interaction_rows(
        table(u=["a"] * 4, i=["1"] * 4, r=["inf", "nan", "-inf", " 2.5 "]),
        quarantine,
        user_id="u",
        item_id="i",
        rating="r",
    )
    assert rows["rating"].to_list() == [2.5]
    assert quarantine.frame()["reason"].to_list() == ["bad_rating"] * 3


def test_a_time_without_an_offset_is_utc_wherever_it_is_read(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        found = parse_timestamps(pl.Series(["2021-01-01", "2021-01-01 01:00:00+01:00"]))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found.to_list() == [1609459200000] * 2


def test_without_timestamp_the_rows_give_the_order():
    rows = interaction_rows(
        table(u=["a", "a"], i=["2", "1"]), QuarantineLog(), user_id="u", item_id="i"
    )
    assert rows["timestamp"].to_list() == [None, None]
    assert rows["order"].to_list() == [0, 1]


def test_sequences():
    n_rows, quarantine = Counter({"f.csv": 5}), QuarantineLog()
    rows = sequence_rows(
        table(line=["u1 3 1 2 ", "u2\t7,8", "u3", "u1 9", "   "]), n_rows, quarantine
    )
    assert rows.select("user_id", "item_id", "order", "row").rows() == [
        ("u1", "3", 0, 1),
        ("u1", "1", 1, 1),
        ("u1", "2", 2, 1),
        ("u2", "7", 3, 2),
        ("u2", "8", 4, 2),
    ]
    assert quarantine.frame().select("row", "reason").rows() == [
        (3, "wrong_field_count"),
        (4, "duplicate_id"),
        (5, "empty_id"),
    ]
    assert n_rows["f.csv"] == 5 + 3
