"""Pictures of an evaluation. No global state of matplotlib is touched, no window is opened."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, told apart by people with any colour vision."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_GREY = "#666666"

Row = Mapping[str, Any]


def metric_label(metric: str) -> str:
    """Return the name of a metric as people write it.

    Example:
        >>> metric_label("ndcg_at_10")
        'NDCG@10'
    """
    return metric.upper().replace("_AT_", "@")


def plot_results(results: Sequence[Row], models: Sequence[str], metrics: Sequence[str]) -> Figure:
    """Draw every model's metrics as bars with intervals, valid beside test.

    Args:
        results: rows as :func:`sicsrec.evaluation.comparison.result_rows` returns them.
        models: names of the models in the order of the rows, from the top.
        metrics: one panel each.
    """
    figure = Figure(figsize=(5.2 * len(metrics), 1.2 + 0.62 * len(models)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    places = {model: place for place, model in enumerate(models)}
    for axes, metric in zip(panels, metrics, strict=True):
        for number, split in enumerate(("valid", "test")):
            rows = [row for row in results if row["split"] == split]
            heights = [places[row["model"]] + (number - 0.5) * 0.36 for row in rows]
            values = [row[metric] for row in rows]
            axes.barh(heights, values, height=0.34, color=_COLOURS[number], label=split)
            axes.errorbar(
                values, heights, xerr=_errors(rows, metric), fmt="none", ecolor="black", capsize=2
            )
            for row, height in zip(rows, heights, strict=True):
                axes.annotate(
                    f"{row[metric]:.4f}",
                    (row[f"{metric}_high"], height),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                )
        _finish(axes, models, metric_label(metric))
        # Room for the numbers right of the longest interval.
        axes.set_xlim(0, axes.get_xlim()[1] * 1.12)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=2, frameon=False)
    return figure


def plot_cohorts(
    cohorts: Sequence[Row],
    models: Sequence[str],
    cohort_labels: Mapping[str, str],
    metric: str,
) -> Figure:
    """Draw one metric of every model in every cohort as points with intervals.

    Args:
        cohorts: rows of one split as :func:`sicsrec.evaluation.comparison.cohort_rows` returns.
        models: names of the models in the order of the legend.
        cohort_labels: cohort to what a reader is told it is; empty cohorts are named, not drawn.
        metric: what is drawn.
    """
    figure = Figure(figsize=(8.0, 1.4 + 0.75 * len(cohort_labels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = {cohort: place for place, cohort in enumerate(cohort_labels)}
    users = {row["cohort"]: row["users"] for row in cohorts}
    step = 0.7 / max(len(models), 1)
    for number, model in enumerate(models):
        rows = [row for row in cohorts if row["model"] == model and row["users"]]
        shift = (number - (len(models) - 1) / 2) * step
        axes.errorbar(
            [row[metric] for row in rows],
            [places[row["cohort"]] + shift for row in rows],
            xerr=_errors(rows, metric),
            # Colours come again before pairs of colour and marker do.
            fmt=_MARKERS[(number + number // len(_COLOURS)) % len(_MARKERS)],
            color=_COLOURS[number % len(_COLOURS)],
            markersize=5,
            capsize=2,
            label=model,
        )
    ticks = [f"{text}\n({users.get(cohort, 0):,} users)" for cohort, text in cohort_labels.items()]
    _finish(axes, ticks, metric_label(metric))
    # Markers at 0 stay whole.
    axes.set_xlim(left=-0.015 * axes.get_xlim()[1])
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def plot_differences(rows: Sequence[Row], first: str, metrics: Sequence[str]) -> Figure:
    """Draw every variant's difference to the first one as a point with its interval.

    Args:
        rows: rows as :func:`sicsrec.evaluation.variants.compare_variants` returns them; those
            without a difference are named, not drawn.
        first: the variant that the others are compared with, drawn as the line at 0.
        metrics: one panel each.
    """
    others = [name for name in dict.fromkeys(row["variant"] for row in rows) if name != first]
    models = list(dict.fromkeys(row["model"] for row in rows))
    size = (1.8 + 3.3 * len(metrics), 1.8 + 0.5 * len(others))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    step = 0.5 / max(len(models), 1)
    for axes, metric in zip(panels, metrics, strict=True):
        axes.axvline(0.0, color=_GREY, linewidth=1.0)
        for number, model in enumerate(models):
            drawn = [
                row
                for row in rows
                if row["model"] == model and row[f"{metric}_difference"] is not None
            ]
            values = [row[f"{metric}_difference"] for row in drawn]
            ends = [(row[f"{metric}_low"], row[f"{metric}_high"]) for row in drawn]
            shift = (number - (len(models) - 1) / 2) * step
            axes.errorbar(
                values,
                [others.index(row["variant"]) + shift for row in drawn],
                xerr=[
                    [max(value - low, 0.0) for value, (low, _) in zip(values, ends, strict=True)],
                    [max(high - value, 0.0) for value, (_, high) in zip(values, ends, strict=True)],
                ],
                # Colours come again before pairs of colour and marker do.
                fmt=_MARKERS[(number + number // len(_COLOURS)) % len(_MARKERS)],
                color=_COLOURS[number % len(_COLOURS)],
                markersize=5,
                capsize=2,
                label=model,
            )
        _finish(axes, others, f"{metric_label(metric)}, difference to {first!r}")
        axes.xaxis.set_major_locator(MaxNLocator(4))
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(models), frameon=False)
    return figure


def _errors(rows: Sequence[Row], metric: str) -> list[list[float]]:
    """Return distances from mean to both ends; a mean may lie a hair outside its interval."""
    return [
        [max(row[metric] - row[f"{metric}_low"], 0.0) for row in rows],
        [max(row[f"{metric}_high"] - row[metric], 0.0) for row in rows],
    ]


def _finish(axes: Axes, ticks: Sequence[str], label: str) -> None:
    axes.set_yticks(range(len(ticks)), ticks)
    axes.set_ylim(len(ticks) - 0.5, -0.5)
    axes.set_xlabel(label)
    # A name may hold dollar signs, between which matplotlib would read mathematics.
    for text in (*axes.get_yticklabels(), axes.xaxis.label):
        text.set_parse_math(False)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GREY)
