"""Columns of strings to raw items and raw interactions; what cannot be read goes to quarantine."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import polars as pl

from sicsrec.data.ids import composed_ids, written_ids
from sicsrec.data.quarantine import QuarantineLog
from sicsrec.data.readers.base import RAW_INTERACTIONS, RAW_ITEMS
from sicsrec.data.readers.delimited import Dialect, Table
from sicsrec.errors import DataError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LEAST_MILLISECONDS = 100_000_000_000
_MOST_MILLISECONDS = 100_000_000_000_000
_MICROSECONDS, _NANOSECONDS = (1e14, 1e16), (1e17, 1e19)
"""Of times from 1973 to 2286; of the first, none is a time in milliseconds."""


USER_WORDS = frozenset({"user", "user_id", "userid", "uid"})
"""What a header may call the user id."""

ITEM_WORDS = frozenset({"item", "item_id", "itemid", "iid", "video", "video_id", "videoid", "vid"})
"""What a header may call the item id."""

PAIRS_DIALECT = Dialect(
    columns=("user", "item", "timestamp"),
    header_words={
        "user": USER_WORDS | {"id"},
        "item": ITEM_WORDS,
        "timestamp": frozenset({"timestamp", "time", "ts", "date"}),
    },
)
"""One interaction per row, with or without a header."""


_NUMBER = r"^\d+(?:\.\d*)?$"
_DATE_AS_NUMBER = (
    r"^(?:199|20\d)\d(?:(?:0[1-9]|1[0-2])(?:(?:0[1-9]|[12]\d|3[01])"
    r"(?:(?:[01]\d|2[0-3])(?:[0-5]\d){0,2})?)?)?(?:\.0*)?$"
)
# Not all: columns of dates hold a 0 here and there, where nothing is known.
_LEAST_SHARE_OF_DATES = 0.9


def refuse_dates_as_numbers(texts: pl.Series, column: str, file: str) -> None:
    """Refuse times such as 20210304, which would be read as seconds, of the year 1970.

    Seconds and milliseconds of any year that people have logs of are no such numbers.

    Args:
        texts: what the column holds.
        column: its name.
        file: where it stands.

    Raises:
        DataError: if nearly all numbers are years, months, days or moments without separators.
    """
    numbers = texts.str.strip_chars().drop_nulls()
    numbers = numbers.filter(numbers.str.contains(_NUMBER))
    dates = numbers.filter(numbers.str.contains(_DATE_AS_NUMBER))
    if numbers.len() and dates.len() >= _LEAST_SHARE_OF_DATES * numbers.len():
        raise DataError(
            f"{file}: the times in the column {column!r} look like dates written as numbers, e.g. "
            f"{dates[0]!r}; numbers are read as seconds or milliseconds since 1970. Write them "
            "so, or as ISO 8601 with separators, e.g. 2021-03-04"
        )


def refuse_finer_units(texts: pl.Series, column: str, file: str) -> None:
    """Refuse times in microseconds or nanoseconds, of which every row would be refused.

    Args:
        texts: what the column holds.
        column: its name.
        file: where it stands.

    Raises:
        DataError: if nearly all times are such numbers.
    """
    given = texts.str.strip_chars()
    given = given.filter(given != "")
    numbers = given.cast(pl.Float64, strict=False)
    for unit, bounds in (("micro", _MICROSECONDS), ("nano", _NANOSECONDS)):
        finer = given.filter(numbers.is_between(*bounds, closed="left"))
        if finer.len() and finer.len() >= _LEAST_SHARE_OF_DATES * given.len():
            raise DataError(
                f"{file}: the times in the column {column!r} look like {unit}seconds, e.g. "
                f"{finer[0]}; numbers are read as seconds or milliseconds since 1970. Write them "
                "so, or as ISO 8601"
            )


def parse_timestamps(texts: pl.Series) -> pl.Series:
    """Return milliseconds since 1970, UTC; null where a text is no time.

    Numbers from 1e11 on (1973 in milliseconds, 5138 in seconds) are milliseconds, smaller ones
    seconds; numbers that are negative or from 1e14 on are no times. Everything else must be ISO
    8601; without an offset it is taken for UTC.

    Example:
        >>> parse_timestamps(pl.Series(["1", "1600000000123", "1970-01-02", "soon"])).to_list()
        [1000, 1600000000123, 86400000, None]
    """
    stripped = texts.str.strip_chars()
    frame = pl.DataFrame(
        {
            "text": stripped,
            "whole": stripped.cast(pl.Int64, strict=False),
            "number": stripped.cast(pl.Float64, strict=False),
        }
    )
    is_number = pl.col("number").is_finite() & pl.col("number").is_between(
        0, _MOST_MILLISECONDS, closed="left"
    )
    is_seconds = pl.col("number") < _LEAST_MILLISECONDS
    exact = pl.when(is_seconds).then(pl.col("whole") * 1000).otherwise(pl.col("whole"))
    scaled = pl.when(is_seconds).then(pl.col("number") * 1000).otherwise(pl.col("number"))
    numbers = frame.select(
        pl.when(is_number).then(pl.coalesce(exact, scaled.round().cast(pl.Int64, strict=False)))
    ).to_series()
    usual = _parse_usual_iso(stripped)
    words = stripped.filter(frame["number"].is_null() & usual.is_null()).drop_nulls().unique()
    parsed = {word: _parse_iso(word) for word in words}
    dates = stripped.replace_strict(parsed, default=None, return_dtype=pl.Int64)
    times = numbers.fill_null(usual)
    return times.fill_null(dates) if parsed else times


_USUAL_ISO = (
    r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:[0-5]\d"
    r"(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)?$"
)
_LENGTH_TO_SECONDS = len("2021-03-04T05:06:07")


def _parse_usual_iso(texts: pl.Series) -> pl.Series:
    """Do what :func:`_parse_iso` does for the usual form; null elsewhere and where it is no time.

    A log has about as many distinct times as rows, and one by one a hundred million of them take a
    quarter of an hour and tens of gigabytes.
    """
    is_usual = pl.col("text").str.contains(_USUAL_ISO)
    usual = texts.to_frame("text").select(pl.when(is_usual).then(pl.col("text")))
    text, offset = pl.col("text"), pl.col("offset")
    parts = usual.select(
        seconds=text.str.head(_LENGTH_TO_SECONDS)
        .str.replace(" ", "T", literal=True)
        .str.to_datetime("%Y-%m-%dT%H:%M:%S", time_unit="ms", strict=False)
        .dt.timestamp("ms"),
        fraction=text.str.extract(r"\.(\d{1,3})").str.pad_end(3, "0").cast(pl.Int64),
        offset=text.str.extract(r"([+-]\d{2}:\d{2})$"),
    )
    minutes = offset.str.slice(1, 2).cast(pl.Int64) * 60 + offset.str.slice(4, 2).cast(pl.Int64)
    east = pl.when(offset.str.starts_with("-")).then(-minutes).otherwise(minutes)
    milliseconds = parts.select(
        pl.col("seconds") + pl.col("fraction").fill_null(0) - east.fill_null(0) * 60_000
    ).to_series()
    is_time = milliseconds.is_between(0, _MOST_MILLISECONDS, closed="left")
    return milliseconds.set(~is_time, None)


def _parse_iso(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    milliseconds = (moment - _EPOCH) // timedelta(milliseconds=1)
    return milliseconds if 0 <= milliseconds < _MOST_MILLISECONDS else None


def item_rows(
    table: Table,
    quarantine: QuarantineLog,
    *,
    item_id: str,
    title: str | None,
    description: str | None = None,
    language: str | None = None,
    topics: pl.Expr | None = None,
    image: str | None = None,
) -> pl.DataFrame:
    """Return raw items, schema RAW_ITEMS; rows without an id are quarantined.

    Args:
        table: the item file.
        quarantine: receives the rows without an id.
        item_id: column of the id.
        title: column of the title; None: no item has one.
        description: column of a longer text.
        language: column of the language.
        topics: expression that gives a list of strings.
        image: column of the cover's path.
    """
    optional = {
        "title": title,
        "description": description,
        "language": language,
        "image": image,
    }
    no_topics = pl.lit([], dtype=pl.List(pl.String))
    frame = table.frame.select(
        item_id=written_ids(table.frame[item_id]),
        **{
            name: pl.lit(None, pl.String) if column is None else _text_or_null(pl.col(column))
            for name, column in optional.items()
        },
        topics=no_topics if topics is None else topics,
        file=table.files,
        row=pl.col("row"),
    )
    without = _is_empty("item_id")
    _refuse(frame.filter(without), "item", "empty_id", "the item id is empty", quarantine)
    return frame.filter(~without).select(list(RAW_ITEMS))


def split_topics(column: str) -> pl.Expr:
    """Return the topics of a column that separates them by ``|``; empty ones are dropped."""
    parts = pl.col(column).fill_null("").str.split("|")
    stripped = parts.list.eval(pl.element().str.strip_chars())
    return stripped.list.eval(pl.element().filter(pl.element() != ""))


def interaction_rows(
    table: Table,
    quarantine: QuarantineLog,
    *,
    user_id: str,
    item_id: str,
    timestamp: str | None = None,
    rating: str | None = None,
) -> pl.DataFrame:
    """Return raw interactions, schema RAW_INTERACTIONS; rows that cannot be read are quarantined.

    Args:
        table: the interaction file.
        quarantine: receives rows without ids, time (if a column is named) or rating (likewise).
        user_id: column of the user id.
        item_id: column of the item id.
        timestamp: column of the time; None: the rows stand in time order.
        rating: column of a number.

    Raises:
        DataError: if the times are dates written as numbers.
    """
    nothing = pl.Series([None], dtype=pl.String).new_from_index(0, table.frame.height)
    times = nothing if timestamp is None else table.frame[timestamp]
    if timestamp is not None:
        refuse_dates_as_numbers(times, timestamp, table.file)
        refuse_finer_units(times, timestamp, table.file)
    ratings = nothing if rating is None else table.frame[rating]
    frame = pl.DataFrame(
        {
            "user_id": written_ids(table.frame[user_id]),
            "item_id": written_ids(table.frame[item_id]),
            "timestamp": parse_timestamps(times),
            "order": pl.int_range(table.frame.height, dtype=pl.Int64, eager=True),
            "rating": ratings.str.strip_chars().cast(pl.Float64, strict=False),
            "file": table.files,
            "row": table.frame["row"],
            "time_text": times,
            "rating_text": ratings,
        }
    )
    checks = [
        ("empty_id", _is_empty("user_id"), pl.lit("the user id is empty")),
        ("empty_id", _is_empty("item_id"), pl.lit("the item id is empty")),
    ]
    if timestamp is not None:
        no_time = pl.col("timestamp").is_null()
        checks.append(("bad_timestamp", no_time, _quote("time_text", "as a time")))
    if rating is not None:
        no_number = pl.col("rating").is_null() | ~pl.col("rating").is_finite()
        checks.append(("bad_rating", no_number, _quote("rating_text", "as a number")))
    for reason, is_bad, detail in checks:
        bad = frame.filter(is_bad)
        if bad.height:
            _refuse(bad, "interaction", reason, detail, quarantine)
            frame = frame.filter(~is_bad)
    return frame.select(list(RAW_INTERACTIONS))


SEQUENCE_DIALECT = Dialect(delimiter="\x1f", has_quotes=False, columns=("line",))
"""Reads whole lines: the delimiter occurs in no text."""


def sequence_rows(table: Table, n_rows: Counter[str], quarantine: QuarantineLog) -> pl.DataFrame:
    """Return raw interactions of a file with one user and their items, in time order, per line.

    Lines without items are quarantined, and so is every further line of a user, because nothing
    says in which order the lines belong.

    Args:
        table: the file, read with :data:`SEQUENCE_DIALECT`; user and items are separated by white
            space or commas.
        n_rows: the file's entry is set to the number of interactions, which is what later checks
            refuse one by one.
        quarantine: receives what is left out.
    """
    words = pl.col("line").str.extract_all(r"[^\s,]+")
    lines = table.frame.with_columns(composed_ids(table.frame["line"]))
    frame = lines.select(
        user_id=words.list.first(),
        items=words.list.slice(1),
        file=pl.lit(table.file),
        row=pl.col("row"),
    )
    n_broken = n_rows[table.file] - frame.height
    is_further = ~pl.col("user_id").is_first_distinct()
    for reason, is_bad, detail in (
        ("empty_id", _is_empty("user_id"), "the line holds nothing"),
        ("wrong_field_count", pl.col("items").list.len() == 0, "the user has no items"),
        ("duplicate_id", is_further, "an earlier row has the same user"),
    ):
        marked = frame.with_columns(is_bad=is_bad)
        bad = marked.filter("is_bad").with_columns(item_id=pl.col("user_id"))
        _refuse(bad, "interaction", reason, detail, quarantine)
        n_broken += bad.height
        frame = marked.filter(~pl.col("is_bad")).drop("is_bad")
    exploded = frame.explode("items").rename({"items": "item_id"})
    n_rows[table.file] = n_broken + exploded.height
    return exploded.select(
        "user_id",
        "item_id",
        pl.lit(None, pl.Int64).alias("timestamp"),
        pl.int_range(pl.len(), dtype=pl.Int64).alias("order"),
        pl.lit(None, pl.Float64).alias("rating"),
        "file",
        "row",
    ).select(list(RAW_INTERACTIONS))


def _text_or_null(column: pl.Expr) -> pl.Expr:
    text = column.str.strip_chars()
    return pl.when(text != "").then(text)


def _is_empty(column: str) -> pl.Expr:
    return pl.col(column).is_null() | (pl.col(column) == "")


def _quote(column: str, as_what: str) -> pl.Expr:
    return pl.format(
        "{} cannot be read " + as_what, pl.format("'{}'", pl.col(column).fill_null(""))
    )


def _refuse(
    bad: pl.DataFrame, kind: str, reason: str, detail: str | pl.Expr, quarantine: QuarantineLog
) -> None:
    quarantine.extend(
        bad.select(
            kind=pl.lit(kind),
            file=pl.col("file"),
            row=pl.col("row"),
            key=pl.col("item_id"),
            reason=pl.lit(reason),
            detail=pl.lit(detail) if isinstance(detail, str) else detail,
        )
    )
