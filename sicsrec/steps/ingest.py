"""Raw files to a validated catalogue, interactions, covers and a quarantine."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl

from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.covers import CoverFile, CoverOutcome, CoverWriter, store_covers
from sicsrec.data.description import describe_interactions, draw_popularity
from sicsrec.data.filters import FilterCount, apply_filters
from sicsrec.data.images import CoverLimits
from sicsrec.data.readers import read_raw
from sicsrec.data.readers.base import RawData
from sicsrec.data.validation import (
    build_catalog_frame,
    check_bad_cover_share,
    check_bad_share,
    keep_first_rows,
    keep_known_items,
    order_interactions,
)
from sicsrec.errors import DataError
from sicsrec.paths import printable
from sicsrec.steps.context import StepContext, StepReport

logger = logging.getLogger(__name__)

_SHOWN_NAMES = 3


def run(context: StepContext) -> StepReport:
    """Read, check and write the raw data.

    Raises:
        DataError: if files are missing, too many rows or covers are broken, or nothing is left.
    """
    config = context.config.ingest
    with tempfile.TemporaryDirectory(dir=context.work) as scratch:
        with context.progress.stage("read raw files", None):
            raw = read_raw(config, Path(scratch))
        quarantine = raw.quarantine
        items = keep_first_rows(raw.items, quarantine)
        _check_has_rows(raw, raw.items, "item")
        # Before the items are compared with the log, for without them every row of it is bad.
        share = config.max_bad_row_share
        check_bad_share(quarantine, raw.n_rows, share, "ingest.max_bad_row_share")
        _check_has_rows(raw, raw.interactions, "interaction")
        known = keep_known_items(raw.interactions, items, quarantine)
        check_bad_share(quarantine, raw.n_rows, share, "ingest.max_bad_row_share")
        filtered, filter_counts = apply_filters(known, config.filters)
        interactions = order_interactions(filtered)
        _check_not_empty(items, known, interactions)
        _warn_of_empty_fields(items, config.text_fields)
        frame = build_catalog_frame(items, config.text_fields)
        outcome, frame = _store_covers(context, raw, frame)
    catalog = ItemCatalog(frame)
    catalog.write(context.output("catalog"))
    interactions.write_parquet(context.output("interactions") / "interactions.parquet")
    refused = quarantine.frame()
    refused.write_parquet(context.output("quarantine") / "quarantine.parquet")
    context.tracker.log_table("quarantine", _summarise(refused))
    counts = quarantine.counts()
    _warn_of_quarantine(counts)
    context.tracker.log_figure("popularity", draw_popularity(interactions))
    content = _report(raw, catalog, interactions, outcome, counts, filter_counts)
    return StepReport(interactions.height, "interactions", content)


def _check_has_rows(raw: RawData, rows: pl.DataFrame, kind: str) -> None:
    if rows.height or kind in raw.quarantine.counts():
        return
    empty = sorted(file for file, n_rows in raw.n_rows.items() if not n_rows)
    raise DataError(
        f"ingest: no usable {kind}: no rows, at most a header, in {', '.join(empty)}; give a file "
        f"of {kind}s that holds some"
    )


def _warn_of_empty_fields(items: pl.DataFrame, text_fields: tuple[str, ...]) -> None:
    for field in text_fields:
        if items[field].null_count() == items.height:
            logger.warning("no item has a %s, which ingest.text_fields asks for", field)


def _check_not_empty(items: pl.DataFrame, known: pl.DataFrame, kept: pl.DataFrame) -> None:
    if not items.height:
        raise DataError("ingest: no usable item is left; the quarantined rows say why")
    if not known.height:
        raise DataError(
            "ingest: no usable interaction is left: either every row is broken, or no item id of "
            f"the interactions is among the {items.height} items, "
            f"e.g. {items['item_id'].head(3).to_list()}"
        )
    if not kept.height:
        raise DataError(
            f"ingest: the filters leave nothing of {known.height} interactions; loosen "
            "ingest.filters"
        )


def _store_covers(
    context: StepContext, raw: RawData, items: pl.DataFrame
) -> tuple[CoverOutcome, pl.DataFrame]:
    """Store the covers of the catalogue and return it with image path and status filled in."""
    config = context.config.ingest
    by_item = {cover.item_id: cover for cover in raw.covers}
    files = [by_item[item] for item in items["item_id"] if item in by_item]
    writer = CoverWriter(context.output("covers"))
    limits = CoverLimits(config.max_cover_bytes, config.max_cover_pixels, config.cover_short_side)
    with context.progress.stage("check covers", len(files)) as advance:
        outcome = store_covers(
            raw.root, raw.covers_root or raw.root, files, writer, limits, raw.quarantine, advance
        )
    writer.close()
    if raw.covers_root is not None and not files:
        _warn_of_no_cover(raw, items, getattr(config.reader, "image", None))
    check_bad_cover_share(
        raw.quarantine,
        items["item_id"],
        outcome.n_present,
        config.max_bad_cover_share,
        "ingest.max_bad_cover_share",
    )
    return outcome, _with_images(items, files, outcome)


def _warn_of_no_cover(raw: RawData, items: pl.DataFrame, column: str | None) -> None:
    if column is not None:
        logger.warning("no item has a cover: the column %r is empty", column)
        return
    folder = printable(str(raw.covers_root))
    found = [printable(cover.path) for cover in raw.covers[:_SHOWN_NAMES]]
    logger.warning(
        "no item has a cover: images in %s itself, as sub-folders are not searched, are named "
        "after their item, such as %s.jpg; found: %s. Move or rename them, or give an "
        "ingest.reader.image with their paths",
        folder,
        items["item_id"][0],
        ", ".join(found) or "no image",
    )


def _with_images(
    items: pl.DataFrame, files: Sequence[CoverFile], outcome: CoverOutcome
) -> pl.DataFrame:
    found = pl.DataFrame(
        [(file.item_id, printable(file.path), outcome.status[file.item_id]) for file in files],
        schema={"item_id": pl.String, "path": pl.String, "status": pl.String},
        orient="row",
    )
    joined = items.join(found, on="item_id", how="left", maintain_order="left")
    return joined.with_columns(
        image_path=pl.when(pl.col("status") != "missing").then(pl.col("path")),
        image_status=pl.col("status").fill_null("missing"),
    ).select(items.columns)


def _warn_of_quarantine(counts: Mapping[str, Mapping[str, int]]) -> None:
    kinds = [
        f"{kind}: " + ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
        for kind, reasons in counts.items()
    ]
    if kinds:
        logger.warning("left out and listed in quarantine.parquet (%s)", "; ".join(kinds))


def _summarise(refused: pl.DataFrame) -> pl.DataFrame:
    """Return one row per kind of fault, not per cover or part of a table."""
    return (
        refused.group_by("kind", "reason")
        .agg(
            file=pl.col("file").first(),
            rows=pl.len(),
            first_row=pl.col("row").first(),
            example=pl.col("detail").first(),
        )
        .select("kind", "file", "reason", "rows", "first_row", "example")
        .sort("kind", "file", "reason")
    )


def _report(
    raw: RawData,
    catalog: ItemCatalog,
    interactions: pl.DataFrame,
    outcome: CoverOutcome,
    counts: Mapping[str, Mapping[str, int]],
    filter_counts: Sequence[FilterCount],
) -> dict[str, object]:
    frame = catalog.frame
    statuses = dict(frame["image_status"].value_counts().iter_rows())
    return {
        "rows_read": dict(sorted(raw.n_rows.items())),
        **describe_interactions(interactions, catalog.n_items),
        "duplicate_item_rows": counts.get("item", {}).get("duplicate_id", 0),
        "missing_titles": frame["title"].null_count(),
        "missing_descriptions": frame["description"].null_count(),
        "missing_texts": frame["text"].null_count(),
        "covers": {
            "ok": statuses.get("ok", 0),
            "missing": statuses.get("missing", 0),
            "broken": statuses.get("broken", 0),
            "converted": outcome.n_converted,
            "changes": dict(sorted(outcome.changes.items())),
            "files_without_item": len(raw.covers) - len(outcome.status),
        },
        **raw.counts,
        "quarantine": counts,
        "filters": [asdict(count) for count in filter_counts],
    }
