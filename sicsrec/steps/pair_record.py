"""What is recorded of sampled pairs for people: numbers, examples with titles and covers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.covers import CoverStore
from sicsrec.sampling.plots import ShownItem, ShownPair, plot_answers, plot_pair_sheet
from sicsrec.steps.context import StepContext

_N_SHOWN = 20
_N_DRAWN = 12


def record_pairs(
    context: StepContext, pairs: pl.DataFrame, content: Mapping[str, Any], catalog: ItemCatalog
) -> None:
    """Record metrics, a table of examples, a sheet of the first with covers, and the answers.

    Args:
        context: of the step ``sample_pairs``.
        pairs: table of the schema :data:`sicsrec.data.schema.PAIRS`.
        content: of the step's report.
        catalog: all items.
    """
    context.tracker.log_metrics(_metrics(content))
    positive = pairs.filter(pl.col("positive_id").is_not_null())
    shown = positive.sample(min(_N_SHOWN, positive.height), seed=context.seed)
    titles = dict(catalog.frame.select("item_id", "title").iter_rows())
    context.tracker.log_table("sample_pairs", _with_titles(shown, titles))
    if shown.height:
        covers = CoverStore(context.input("ingest/covers").path())
        sheet = plot_pair_sheet(_with_covers(shown.head(_N_DRAWN), titles, covers))
        context.tracker.log_figure("sample_pairs", sheet)
    answers = content["answers"]
    outcomes = {
        "pair": answers["pair"],
        "none": answers["none"],
        **answers["unusable"],
        **content["not_asked"],
    }
    indices = catalog.indices_of(positive["positive_id"])
    times_positive = np.bincount(indices, minlength=catalog.n_items + 1)[1:]
    context.tracker.log_figure("sample_pairs_answers", plot_answers(outcomes, times_positive))


def _metrics(content: Mapping[str, Any]) -> dict[str, float]:
    metrics = {
        "pairs/n_pairs": float(content["answers"]["pair"]),
        "pairs/n_none": float(content["answers"]["none"]),
        "pairs/unusable_share": content["unusable_share"],
        "pairs/share_of_items": content["share_of_items_in_a_pair"],
    }
    took = content.get("language_model", {})
    numbers = ("prompt_tokens", "answer_tokens", "model_seconds", "cost", "asked_now", "repairs")
    return metrics | {f"judge/{name}": float(took[name]) for name in numbers if name in took}


def _with_titles(shown: pl.DataFrame, titles: Mapping[str, str | None]) -> pl.DataFrame:
    def named(column: str) -> list[str | None]:
        return [titles[item_id] for item_id in shown[column]]

    return shown.select(
        "anchor_id",
        pl.Series("anchor_title", named("anchor_id"), dtype=pl.String),
        "positive_id",
        pl.Series("positive_title", named("positive_id"), dtype=pl.String),
        pl.col("negative_ids").list.join(" "),
        "source",
    )


def _with_covers(
    shown: pl.DataFrame, titles: Mapping[str, str | None], covers: CoverStore
) -> Sequence[ShownPair]:
    def show(item_id: str) -> ShownItem:
        cover = covers.read([item_id])[0] if item_id in covers else None
        return ShownItem(titles[item_id], cover)

    return [
        ShownPair(
            show(anchor),
            show(positive),
            tuple(titles[item_id] or item_id for item_id in negatives),
        )
        for anchor, positive, negatives in shown.select(
            "anchor_id", "positive_id", "negative_ids"
        ).iter_rows()
    ]
