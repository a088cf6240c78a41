import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sicsrec.config import FilterConfig
from sicsrec.data.filters import apply_filters, drop_repeats, keep_cores
from sicsrec.errors import DataError

DAY = 86_400_000


def log(rows):
    frame = pl.DataFrame(
        rows,
        schema={
            "user_id": pl.String,
            "item_id": pl.String,
            "timestamp": pl.Int64,
            "rating": pl.Float64,
        },
        orient="row",
    )
    return frame.with_columns(order=pl.int_range(pl.len(), dtype=pl.Int64))


def pairs(frame):
    return frame.select("user_id", "item_id").rows()


LOG = log(
    [
        ("a", "1", 3 * DAY, 5.0),
        ("a", "2", 2 * DAY, 3.0),
        ("a", "1", 1 * DAY, 4.0),
        ("b", "1", 5 * DAY, 2.0),
        ("b", "3", 5 * DAY, 3.5),
    ]
)


def test_no_filter_changes_nothing():
    kept, counts = apply_filters(LOG, FilterConfig())
    assert kept.equals(LOG)
    assert counts == []


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"min_rating": 3.5}, [("a", "1"), ("a", "1"), ("b", "3")]),
        ({"since": "1970-01-04"}, [("a", "1"), ("b", "1"), ("b", "3")]),
        ({"until": "1970-01-04"}, [("a", "2"), ("a", "1")]),
        ({"since": "1970-01-03", "until": "1970-01-06"}, [("a", "1"), ("a", "2")]),
        ({"since": "1970-01-04T01:00:00.0005+01:00"}, [("a", "1"), ("b", "1"), ("b", "3")]),
        ({"until": "9999-12-31"}, pairs(LOG)),
        ({"since": "6000-01-01"}, []),
        ({"min_history_length": 3}, [("a", "1"), ("a", "2"), ("a", "1")]),
        ({"item_core": 2}, [("a", "1"), ("a", "1"), ("b", "1")]),
        ({"drop_repeats": True}, [("a", "2"), ("a", "1"), ("b", "1"), ("b", "3")]),
    ],
)
def test_each_filter(config, expected):
    kept, counts = apply_filters(LOG, FilterConfig(**config))
    assert pairs(kept) == expected
    assert counts[0].interactions_before == 5
    assert counts[-1].interactions_after == len(expected)


def test_repeats_keep_the_earliest_not_the_first_row():
    assert drop_repeats(LOG).filter(user_id="a", item_id="1")["timestamp"].to_list() == [DAY]


def test_of_repeats_at_one_time_the_first_in_order_is_kept():
    twice = log([("a", "1", DAY, 5.0), ("a", "1", DAY, 1.0)])
    assert drop_repeats(twice.reverse())["rating"].to_list() == [5.0]


def test_filters_run_in_their_order():
    """Repeats do not help a user over a core: they are gone before it is asked for."""
    rows = [("a", "1", DAY, 5.0), ("a", "1", 2 * DAY, 5.0), ("b", "2", DAY, 5.0)]
    config = FilterConfig(
        min_rating=1.0,
        since="1970-01-02",
        until="1970-01-09",
        drop_repeats=True,
        user_core=2,
        min_history_length=1,
    )
    kept, counts = apply_filters(log(rows), config)
    assert kept.is_empty()
    assert [count.name for count in counts] == [
        "min_rating", "since", "until", "drop_repeats", "cores", "min_history_length"
    ]  # fmt: skip


def test_counts_before_and_after_of_every_filter():
    config = FilterConfig(min_rating=3.0, min_history_length=2)
    _, counts = apply_filters(LOG, config)
    assert [count.name for count in counts] == ["min_rating", "min_history_length"]
    first, second = counts
    assert (first.interactions_before, first.interactions_after) == (5, 4)
    assert (first.users_before, first.users_after) == (2, 2)
    assert (second.users_before, second.users_after) == (2, 1)
    assert (second.items_before, second.items_after) == (3, 2)


def test_cores_are_repeated_until_stable():
    # Item 3 goes, which leaves user b too short, which leaves item 2 too rare, and so on.
    chain = log([(u, i, 0, 0.0) for u, i in ["a1", "a2", "b2", "b3", "c1", "c4", "d1", "d4"]])
    kept = keep_cores(chain, 2, 2)
    assert pairs(kept) == [("c", "1"), ("c", "4"), ("d", "1"), ("d", "4")]


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("123456")), max_size=40),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_cores_hold_and_nothing_more_is_dropped(rows, user_core, item_core):
    frame = log([(user, item, 0, 0.0) for user, item in rows])
    kept = keep_cores(frame, user_core, item_core)
    left = list(rows)
    while True:
        users, items = [user for user, _ in left], [item for _, item in left]
        bad = [
            row
            for row in left
            if users.count(row[0]) < user_core or items.count(row[1]) < item_core
        ]
        if not bad:
            break
        left = [row for row in left if row not in bad[:1]]
    assert pairs(kept) == left


@pytest.mark.parametrize("text", ["soon", "2021-02-30", "12345", "1.6e9", "20210304", "1600000600"])
def test_date_that_is_none(text):
    with pytest.raises(ValidationError, match=r"since\n.*ISO 8601"):
        FilterConfig(since=text)


def test_times_that_leave_nothing_are_refused():
    with pytest.raises(ValidationError, match="before 1970"):
        FilterConfig(until="1969-12-31")
    for until in ("2020-01-01", "2020-01-02", "2020-01-02T01:00:00+01:00"):
        with pytest.raises(ValidationError, match="since 2020-01-02 is not before until"):
            FilterConfig(since="2020-01-02", until=until)
    FilterConfig(since="2020-01-02", until="2020-01-02T00:00:01Z")


@pytest.mark.parametrize(
    ("column", "config"), [("rating", {"min_rating": 1.0}), ("timestamp", {"until": "2020-01-01"})]
)
def test_filter_without_its_column(column, config):
    without = LOG.with_columns(pl.lit(None).cast(LOG.schema[column]).alias(column))
    with pytest.raises(DataError, match=f"have no {column}"):
        apply_filters(without, FilterConfig(**config))


def test_filter_by_a_column_with_gaps_is_refused():
    gaps = LOG.with_columns(rating=pl.when(pl.col("order") != 2).then("rating"))
    with pytest.raises(DataError, match="have no rating"):
        apply_filters(gaps, FilterConfig(min_rating=1.0))
