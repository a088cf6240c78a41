"""Table and picture of a search."""

import json
from collections.abc import Sequence

import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sicsrec.tuning.study import TrialRow

BLUE, GREY = "#0072B2", "#666666"


def trial_table(rows: Sequence[TrialRow], metric: str) -> pl.DataFrame:
    """Return the trials as a table: number, figure, a column per value, why it failed."""
    return pl.DataFrame(
        [
            {"trial": row.number, metric: row.value}
            | {path: json.dumps(value) for path, value in row.values.items()}
            | {"failed": row.note}
            for row in rows
        ],
        infer_schema_length=None,
    )


def plot_trials(rows: Sequence[TrialRow], metric: str) -> Figure:
    """Draw every trial's validation figure, and the best so far as a line.

    Args:
        rows: trials in order; failed ones have no point.
        metric: name of the axis.
    """
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    done = [(row.number, row.value) for row in rows if row.value is not None]
    numbers = [number for number, _ in done]
    best = [max(value for _, value in done[: place + 1]) for place in range(len(done))]
    axes.step(numbers, best, where="post", color=GREY, label="best so far")
    axes.plot(numbers, [value for _, value in done], "o", color=BLUE, label="trial")
    axes.set(xlabel="trial", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
