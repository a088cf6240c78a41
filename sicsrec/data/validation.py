"""Raw items and interactions to the tables that the pipeline passes on."""

from collections import Counter

import polars as pl

from sicsrec.data.quarantine import QuarantineLog
from sicsrec.data.schema import INTERACTIONS, ITEMS
from sicsrec.errors import DataError

_COMPARED = ("title", "description", "language", "topics", "image")
_SHOWN_EXAMPLES = 3
_SHOWN_CHARACTERS = 60


def keep_first_rows(items: pl.DataFrame, quarantine: QuarantineLog) -> pl.DataFrame:
    """Keep the first row of every item id; the others go to the quarantine.

    Their detail says whether they are identical to the kept row or in which columns they differ.
    """
    first = items.unique("item_id", keep="first", maintain_order=True)
    others = items.filter(~pl.col("item_id").is_first_distinct()).join(
        first, on="item_id", how="left", suffix="_kept", maintain_order="left"
    )
    differing = pl.concat_str(
        [
            pl.when(pl.col(name).ne_missing(pl.col(f"{name}_kept"))).then(pl.lit(name))
            for name in _COMPARED
        ],
        separator=", ",
        ignore_nulls=True,
    )
    kept_row = (
        pl.when(pl.col("file") == pl.col("file_kept"))
        .then(pl.format("row {}", "row_kept"))
        .otherwise(pl.format("row {} of {}", "row_kept", "file_kept"))
    )
    quarantine.extend(
        others.select(
            kind=pl.lit("item"),
            file=pl.col("file"),
            row=pl.col("row"),
            key=pl.col("item_id"),
            reason=pl.lit("duplicate_id"),
            detail=pl.when(differing == "")
            .then(pl.format("identical to {}, which is kept", kept_row))
            .otherwise(pl.format("differs from {}, which is kept, in {}", kept_row, differing)),
        )
    )
    return first


def keep_known_items(
    interactions: pl.DataFrame, items: pl.DataFrame, quarantine: QuarantineLog
) -> pl.DataFrame:
    """Keep interactions whose item is among ``items``; the others go to the quarantine."""
    unknown = interactions.join(items, on="item_id", how="anti", maintain_order="left")
    quarantine.extend(
        unknown.select(
            kind=pl.lit("interaction"),
            file=pl.col("file"),
            row=pl.col("row"),
            key=pl.col("item_id"),
            reason=pl.lit("item_not_in_catalog"),
            detail=pl.format("of user {}", pl.col("user_id")),
        )
    )
    return interactions.join(items, on="item_id", how="semi", maintain_order="left")


def check_bad_share(
    quarantine: QuarantineLog, n_rows: Counter[str], max_share: float, key: str
) -> None:
    """Refuse files of which too many rows were quarantined.

    Args:
        quarantine: what was left out so far.
        n_rows: rows of every file.
        max_share: largest accepted share of a file's rows.
        key: the configuration key of ``max_share``, for the message.

    Raises:
        DataError: naming file, counts, reasons, first examples and what to do.
    """
    bad = quarantine.frame().filter(pl.col("kind") != "cover")
    for file, n in sorted(n_rows.items()):
        # A table that is a folder is judged as a whole; its rows stand in the files below.
        of_table = (pl.col("file") == file) | pl.col("file").str.starts_with(f"{file}/")
        rows = bad.filter(of_table)
        if rows.height > max_share * n:
            raise DataError(_complain(rows, n, f"rows of {file}", max_share, key))


def check_bad_cover_share(
    quarantine: QuarantineLog, item_ids: pl.Series, n_present: int, max_share: float, key: str
) -> None:
    """Refuse covers of which too many were quarantined; covers of other items do not count.

    Args:
        quarantine: what was left out so far.
        item_ids: the items of the catalogue.
        n_present: cover files that exist of these items, at most one of each.
        max_share: largest accepted share of the files that are present or named, second ones of an
            item included.
        key: the configuration key of ``max_share``, for the message.

    Raises:
        DataError: naming counts, reasons, first examples and what to do.
    """
    covers = quarantine.frame().filter(
        pl.col("kind") == "cover", pl.col("key").is_in(item_ids.implode())
    )
    others = covers.filter(pl.col("reason").is_in(["duplicate_cover", "no_such_file"]))
    n_files = n_present + others.height
    if covers.height > max_share * n_files:
        raise DataError(_complain(covers, n_files, "covers", max_share, key))


def _complain(bad: pl.DataFrame, n: int, of_what: str, max_share: float, key: str) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in _count_reasons(bad))
    examples = "; ".join(
        f"{row['file']}{'' if row['row'] is None else ' row ' + str(row['row'])}: "
        f"{row['reason']}{_named(row['key'])} ({row['detail']})"
        for row in bad.head(_SHOWN_EXAMPLES).iter_rows(named=True)
    )
    return (
        f"{bad.height} of {n} {of_what} ({bad.height / max(n, 1):.1%}) cannot be used, at most "
        f"{max_share:.1%} is accepted: {reasons}. First: {examples}. Correct the data, or raise "
        f"{key} if this is expected"
    )


def _named(key: str | None) -> str:
    return "" if key is None else f" {key[:_SHOWN_CHARACTERS]!r}"


def _count_reasons(bad: pl.DataFrame) -> list[tuple[str, int]]:
    return sorted(Counter(bad["reason"]).items(), key=lambda entry: (-entry[1], entry[0]))


def build_catalog_frame(items: pl.DataFrame, text_fields: tuple[str, ...]) -> pl.DataFrame:
    """Return items in the order of their index, schema ITEMS, without image path and status.

    Item ids are numbered in numeric order if all are whole numbers, else as strings, so that the
    numbering depends on the set of items alone.

    Args:
        items: raw items with unique ids.
        text_fields: columns that, joined, make ``text``.
    """
    number = pl.col("item_id").cast(pl.Int64, strict=False)
    is_plain = number.cast(pl.String) == pl.col("item_id")
    all_numbers = items.select(is_plain.fill_null(value=False).all()).item()
    ordered = items.sort(number if all_numbers else pl.col("item_id"))
    fields = [normalised_text(pl.col(name)) for name in text_fields]
    text = pl.concat_str(fields, separator=". ", ignore_nulls=True)
    indexed = ordered.with_columns(
        item_index=pl.int_range(1, pl.len() + 1, dtype=pl.Int32),
        text=pl.when(text != "").then(text),
        image_path=pl.lit(None, pl.String),
        image_status=pl.lit("missing"),
    )
    return indexed.select(list(ITEMS))


def normalised_text(column: pl.Expr) -> pl.Expr:
    """Return texts in NFC with single spaces; null where nothing is left."""
    text = column.str.normalize("NFC").str.replace_all(r"\s+", " ").str.strip_chars()
    return pl.when(text != "").then(text)


def order_interactions(interactions: pl.DataFrame) -> pl.DataFrame:
    """Return interactions by user in time order, ties by input order, schema INTERACTIONS."""
    ordered = interactions.sort("user_id", "timestamp", "order")
    positions = pl.int_range(pl.len(), dtype=pl.Int32).over("user_id")
    return ordered.with_columns(position=positions).select(list(INTERACTIONS))
