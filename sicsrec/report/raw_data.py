"""What the data is like: lengths, popularity, what is missing, what was refused."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from matplotlib.ticker import MaxNLocator

from sicsrec.data.description import whole_number_bins
from sicsrec.report.drawing import SERIES, finish, new_figure
from sicsrec.report.parts import DataTable, Plot, Section
from sicsrec.report.run_files import RunFiles

_MOST_BINS = 40


def raw_data(files: RunFiles) -> Section | None:
    """Return the report on the data; None for a run that read none."""
    report = files.report("ingest")
    if not report:
        return None
    tables = [
        DataTable("data", "What was read", _counts(report, files.report("split")), digits=5),
        DataTable("missing", "What items lack", _missing(files, report)),
    ]
    refused = _refused(report)
    if refused.height:
        tables.append(DataTable("quarantine", "Rows and covers that were refused", refused))
    return Section(
        "data", "The data", plots=(_lengths(files), _popularity(files)), tables=tuple(tables)
    )


def _counts(report: Mapping[str, Any], split: Mapping[str, Any]) -> pl.DataFrame:
    lengths = report["history_length"]
    values: dict[str, Any] = {
        "items": f"{report['items']:,}",
        "items with interactions": f"{report['items_with_interactions']:,}",
        "users": f"{report['users']:,}",
        "interactions": f"{report['interactions']:,}",
        "repeated interactions": f"{report['repeated_interactions']:,}",
        "density": f"{report['density']:.5f}",
        "history length": f"mean {lengths['mean']}, median {lengths['q50']:.0f}, "
        f"longest {lengths['q100']:.0f}",
    }
    if report.get("first"):
        values["time"] = f"{report['first'][:10]} to {report['last'][:10]}"
    for part in ("valid", "test"):
        if part in split:
            values[f"{part} targets"] = (
                f"{split[part]['users']:,}, {split[part]['cold_targets']:,} of items never seen "
                "in training"
            )
    return pl.DataFrame({"what": list(values), "value": list(values.values())})


def _missing(files: RunFiles, report: Mapping[str, Any]) -> pl.DataFrame:
    counts = {
        "title": report["missing_titles"],
        "description": report["missing_descriptions"],
        "any text": report["missing_texts"],
        "cover: no file": report["covers"]["missing"],
        "cover: broken": report["covers"]["broken"],
    }
    topics = files.catalog.frame["topics"].list.len().fill_null(0)
    counts["topics"] = int((topics == 0).sum())
    n_items = files.catalog.n_items
    return pl.DataFrame(
        {
            "lack": list(counts),
            "items": list(counts.values()),
            "share": [count / n_items for count in counts.values()],
        }
    )


def _refused(report: Mapping[str, Any]) -> pl.DataFrame:
    rows = [
        (kind, reason.replace("_", " "), count)
        for kind, reasons in report["quarantine"].items()
        for reason, count in reasons.items()
    ]
    return pl.DataFrame(
        rows, schema={"kind": pl.String, "reason": pl.String, "rows": pl.Int64}, orient="row"
    )


def _lengths(files: RunFiles) -> Plot:
    lengths = files.interactions.group_by("user_id").len()["len"].to_numpy()
    top = int(np.quantile(lengths, 0.99))
    figure, (axes,) = new_figure(2.6)
    shown = np.minimum(lengths, top)
    axes.hist(shown, bins=whole_number_bins(shown, _MOST_BINS), color=SERIES[0])
    finish(axes)
    axes.set(xlabel="items watched (longest 1 % together)", ylabel="users")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    alt = (
        f"Users by items watched: median {np.median(lengths):.0f}, a quarter at most "
        f"{np.quantile(lengths, 0.25):.0f}, a quarter at least {np.quantile(lengths, 0.75):.0f}"
    )
    return Plot("history_lengths", figure, alt, "How many items users watched.")


def _popularity(files: RunFiles) -> Plot:
    counts = np.sort(files.interactions.group_by("item_id").len()["len"].to_numpy())[::-1]
    figure, (axes,) = new_figure(2.6)
    axes.loglog(np.arange(1, len(counts) + 1), counts, color=SERIES[0], linewidth=2)
    finish(axes, grid="both")
    axes.set(xlabel="items, most watched first", ylabel="times watched")
    fifth = counts[: max(1, len(counts) // 5)].sum() / counts.sum()
    alt = (
        f"Times watched by rank of the item: the first {counts[0]:,} times, the middle one "
        f"{counts[len(counts) // 2]:,}, the last {counts[-1]:,}; the most watched fifth has "
        f"{fifth:.0%} of all interactions"
    )
    return Plot("popularity", figure, alt, f"The most watched fifth has {fifth:.0%} of all views.")
