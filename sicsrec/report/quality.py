"""How good the models are: results beside rivals, curves, cohorts, what each tower does."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sicsrec.evaluation.cohorts import LABELS
from sicsrec.evaluation.intervals import paired_difference
from sicsrec.evaluation.metrics import ndcg
from sicsrec.evaluation.plots import metric_label
from sicsrec.evaluation.ranking import RankingSet, rank_targets
from sicsrec.evaluation.towers import (
    mean_fusion_input,
    modality_silenced,
    tower_replaced,
)
from sicsrec.models.sicsrec import TOWERS
from sicsrec.report.drawing import (
    INK,
    MARKERS,
    MUTED,
    SERIES,
    add_legend,
    finish,
    name_rows,
    new_figure,
)
from sicsrec.report.models import RunModels
from sicsrec.report.parts import DataTable, Plot, Section
from sicsrec.report.run_files import RunFiles
from sicsrec.steps.evaluate import MODELS, OTHER_WAY, SICSREC, WITH_VALID

Row = Mapping[str, Any]
_PLOTTED = ("hr_at_10", "ndcg_at_10")
_CUTOFF = 10
_MOST_USERS = 1000
_RESAMPLES = 500


def results(files: RunFiles) -> Section | None:
    """Return the results with intervals beside the rivals'."""
    report = files.report("evaluate")
    if not report:
        return None
    rows = report["results"]
    test = [row for row in rows if row["split"] == "test"]
    protocol = report["protocol"]
    tables = [DataTable("results", "Test and validation part", _result_frame(rows))]
    for remove_seen, name in OTHER_WAY.items():
        if name in report:
            way = "kept in" if remove_seen else "left out of"
            caption = f"Test part, with watched items {way} the ranking"
            tables.append(DataTable(name, caption, _result_frame(report[name]), is_open=False))
    tables.append(
        DataTable("differences", "Differences on the test part, user by user",
                  pl.DataFrame(report["differences"]), is_open=False)
    )  # fmt: skip
    return Section(
        "results",
        "Results",
        words=(
            f"{test[0]['users']:,} users; each user's held-out item is ranked among all "
            f"{protocol['n_items']:,} items. Bars are {protocol['confidence']:.0%} intervals over "
            "users; they do not know how much another seed would differ. Blends are fitted on the "
            "validation targets, so their validation figures are too kind.",
        ),
        plots=tuple(_plot_results(test, metric) for metric in _PLOTTED),
        tables=tuple(tables),
    )


def _result_frame(rows: Sequence[Row]) -> pl.DataFrame:
    metrics = [name for name in rows[0] if f"{name}_low" in rows[0]]
    return pl.DataFrame(
        [
            {
                "model": row["model"],
                "part": row["split"],
                **{metric_label(name): row[name] for name in metrics},
                **{
                    f"{metric_label(name)} interval": _interval(row, name)
                    for name in _PLOTTED
                    if name in metrics
                },
            }
            for row in rows
        ]
    )


def _interval(row: Row, metric: str) -> str | None:
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return None if low is None else f"{low:.4f} to {high:.4f}"


def _plot_results(rows: Sequence[Row], metric: str) -> Plot:
    rows = sorted(rows, key=lambda row: _place(row["model"]))
    figure, (axes,) = new_figure(0.9 + 0.36 * len(rows))
    # Models that were told the validation targets have an advantage.
    equal = [row for row in rows if not row["model"].endswith(WITH_VALID)]
    best = max(equal, key=lambda row: row[metric])
    for place, row in enumerate(rows):
        colour = SERIES[0] if row["model"].startswith(SICSREC) else SERIES[6]
        _point(axes, row, metric, place, colour)
        axes.annotate(
            f"{row[metric]:.4f}", (row[f"{metric}_high"], place), xytext=(5, 0),
            textcoords="offset points", va="center", fontsize=9, color=INK,
            fontweight="bold" if row is best else "normal",
        )  # fmt: skip
    name_rows(axes, [row["model"] for row in rows])
    axes.set_xlim(0, axes.get_xlim()[1] * 1.12)
    label = metric_label(metric)
    axes.set_xlabel(f"{label}, test part")
    alt = f"{label} on the test part: " + "; ".join(
        f"{row['model']} {row[metric]:.4f}, {_interval(row, metric)}" for row in rows
    )
    return Plot(f"results_{metric}", figure, alt, f"{label} with intervals over users.")


def _place(model: str) -> tuple[int, str]:
    return (MODELS.index(model) if model in MODELS else len(MODELS), model)


def _point(
    axes: Axes,
    row: Row,
    metric: str,
    place: int | float,
    colour: str,
    marker: str = "o",
    label: str = "",
) -> None:
    value = row[metric]
    # A mean may lie a hair outside its interval.
    ends = [[max(value - row[f"{metric}_low"], 0.0)], [max(row[f"{metric}_high"] - value, 0.0)]]
    axes.errorbar(
        [value], [place], xerr=ends, fmt=marker, color=colour, markersize=6, capsize=3,
        label=label or None,
    )  # fmt: skip


def curves(files: RunFiles) -> Section | None:
    """Return loss and validation over the epochs of every step that trains."""
    plots = []
    epochs = files.report("align_encoders").get("epochs")
    if epochs:
        plots.append(_plot_alignment(epochs))
    for step in ("pretrain_id", "train_sicsrec"):
        report = files.report(step)
        if report.get("log"):
            plots.append(_plot_curves(step, report["log"], int(report["best_epoch"])))
    if not plots:
        return None
    return Section("curves", "Training", plots=tuple(plots))


def _plot_alignment(epochs: Sequence[Row]) -> Plot:
    figure, (axes,) = new_figure(2.6)
    numbers = range(1, len(epochs) + 1)
    # An epoch lacks a term that none of its batches had something to contrast for.
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch))
    for name, colour, marker in zip(names, SERIES, MARKERS, strict=False):
        label = "all" if name == "loss" else name.removeprefix("loss_")
        values = [epoch.get(name, math.nan) for epoch in epochs]
        axes.plot(numbers, values, color=colour, marker=marker, markersize=4, label=label)
    finish(axes)
    axes.set(xlabel="epoch", ylabel="loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(axes, len(names))
    alt = (
        f"Loss of align_encoders from {epochs[0]['loss']:.3f} to {epochs[-1]['loss']:.3f} "
        f"in {len(epochs)} epochs"
    )
    return Plot("curves_align_encoders", figure, alt, "align_encoders: loss and its terms.")


def _plot_curves(step: str, log: Sequence[Row], best: int) -> Plot:
    figure, (losses, values) = new_figure(4.2, n_rows=2)
    epochs = [row["epoch"] for row in log]
    names = [name for name in log[0] if name.startswith("train/loss")]
    for name, colour, marker in zip(names, SERIES, MARKERS, strict=False):
        label = name.removeprefix("train/").replace("loss_", "L_")
        losses.plot(epochs, [row[name] for row in log], color=colour, marker=marker,
                    markersize=4, label=label)  # fmt: skip
    add_legend(losses, len(names))
    for metric, colour, marker in zip(_PLOTTED, SERIES, MARKERS, strict=False):
        curve = [row[f"valid/{metric}"] for row in log]
        values.plot(epochs, curve, color=colour, marker=marker, markersize=4,
                    label=metric_label(metric))  # fmt: skip
    values.axvline(best, color=MUTED, linestyle=":", label=f"kept: epoch {best}")
    add_legend(values, 3)
    for axes, label in ((losses, "training loss"), (values, "validation")):
        finish(axes)
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    values.set_xlabel("epoch")
    kept = log[best - 1]
    alt = (
        f"{step}: training loss from {log[0]['train/loss']:.3f} to {log[-1]['train/loss']:.3f} in "
        f"{len(log)} epochs; epoch {best} is kept, with validation NDCG@10 "
        f"{kept['valid/ndcg_at_10']:.4f}"
    )
    return Plot(f"curves_{step}", figure, alt, f"{step}: loss and validation by epoch.")


def cohorts(files: RunFiles) -> Section | None:
    """Return who is served better or worse than the mean says."""
    rows = [row for row in files.report("evaluate").get("cohorts", []) if row["split"] == "test"]
    if not rows:
        return None
    models = sorted({row["model"] for row in rows}, key=_place)
    # What knows the validation targets too is in the table; in the picture it would crowd the rest.
    shown = [name for name in models if not name.endswith(WITH_VALID)][: len(SERIES)]
    metric = "hr_at_10"
    figure, (axes,) = new_figure(1.2 + 0.95 * len(LABELS))
    users = {row["cohort"]: row["users"] for row in rows}
    step = 0.75 / max(len(shown), 1)
    for number, model in enumerate(shown):
        shift = (number - (len(shown) - 1) / 2) * step
        of_model = [row for row in rows if row["model"] == model and row["users"]]
        for count, row in enumerate(of_model):
            place = list(LABELS).index(row["cohort"]) + shift
            _point(axes, row, metric, place, SERIES[number], MARKERS[number],
                   "" if count else model)  # fmt: skip
    ticks = [_wrapped(text, users.get(cohort, 0)) for cohort, text in LABELS.items()]
    name_rows(axes, ticks)
    add_legend(axes, 2)
    axes.set_xlabel(metric_label(metric))
    axes.set_xlim(left=-0.015 * axes.get_xlim()[1])
    last = [row for row in rows if row["model"] == shown[-1] and row["users"]]
    alt = f"HR@10 of {shown[-1]} by group of users: " + "; ".join(
        f"{LABELS[row['cohort']]} {row[metric]:.4f} ({row['users']:,} users)" for row in last
    )
    frame = pl.DataFrame(
        [
            {
                "group": LABELS[row["cohort"]],
                "model": row["model"],
                "users": row["users"],
                "HR@10": row["hr_at_10"],
                "interval": _interval(row, "hr_at_10"),
                "NDCG@10": row["ndcg_at_10"],
            }
            for row in rows
        ],
        infer_schema_length=None,
    )
    return Section(
        "cohorts",
        "Who is served how well",
        plots=(Plot("cohorts_hr_at_10", figure, alt, "HR@10 on the test part by group of users."),),
        tables=(DataTable("cohorts", "All groups and models", frame, is_open=False),),
    )


def _wrapped(text: str, users: int) -> str:
    words = text.split()
    half = (len(words) + 1) // 2
    lines = [" ".join(words[:half]), " ".join(words[half:]), f"({users:,} users)"]
    return "\n".join(line for line in lines if line)


def towers(files: RunFiles, models: RunModels, seed: int) -> Section:
    """Return what SICSRec loses when parts of it are silenced while it ranks.

    Args:
        files: of the run.
        models: of the run.
        seed: picks the users where there are many, and the resamples.
    """
    ranking_set = files.held_out("valid")
    rows = np.arange(len(ranking_set))
    if len(rows) > _MOST_USERS:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:_MOST_USERS])
    asked = RankingSet(ranking_set.histories.take(rows), ranking_set.targets[rows])
    remove_seen = bool(files.report("evaluate").get("protocol", {}).get("remove_seen", False))
    whole = _ndcg(models, asked, remove_seen)
    found = []
    for part, how, silenced in _parts(models, asked):
        with silenced():
            values = _ndcg(models, asked, remove_seen)
        gap = paired_difference(values, whole, n_resamples=_RESAMPLES, confidence=0.95, seed=seed)
        found.append(
            {
                "part": part,
                "how": how,
                "NDCG@10": float(values.mean()),
                "difference": gap.difference,
                "difference_low": gap.low,
                "difference_high": gap.high,
            }
        )
    return _towers_section(found, float(whole.mean()), len(asked))


def _parts(
    models: RunModels, asked: RankingSet
) -> list[tuple[str, str, Callable[[], AbstractContextManager[None]]]]:
    model = models.sicsrec
    mean = mean_fusion_input(model, asked.histories)
    return [
        *(
            (name, how, partial(tower_replaced, model, tower, by))
            for tower, name in TOWERS.items()
            for how, by in (("mean", mean), ("zero", None))
        ),
        *(
            (f"{modality} of items", "left out", partial(modality_silenced, model, modality))
            for modality in model.vector_widths
        ),
    ]


def _ndcg(models: RunModels, asked: RankingSet, remove_seen: bool) -> Any:
    ranks = rank_targets(
        models.sicsrec.fixed(), asked.histories, asked.targets, remove_seen=remove_seen
    )
    return ndcg(ranks, _CUTOFF)


def _towers_section(found: Sequence[dict[str, Any]], whole: float, n_users: int) -> Section:
    figure, (axes,) = new_figure(0.9 + 0.36 * len(found))
    axes.axvline(0.0, color=MUTED, linewidth=1.0)
    colours = {"mean": SERIES[0], "zero": SERIES[1], "left out": SERIES[2]}
    for place, row in enumerate(found):
        _point(axes, row, "difference", place, colours[row["how"]])
    name_rows(axes, [f"{row['part']}, {row['how']}" for row in found])
    axes.set_xlabel(f"change of NDCG@10, {whole:.4f} when whole")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    alt = f"Change of NDCG@10 of SICSRec, {whole:.4f}, when a part is silenced: " + "; ".join(
        f"{row['part']} {row['how']} {row['difference']:+.4f}" for row in found
    )
    frame = pl.DataFrame(
        [
            {
                "part": row["part"],
                "how": row["how"],
                "NDCG@10": row["NDCG@10"],
                "difference": row["difference"],
                "interval": f"{row['difference_low']:+.4f} to {row['difference_high']:+.4f}",
            }
            for row in found
        ]
    )
    return Section(
        "towers",
        "What each tower contributes",
        words=(
            "SICSRec joins the states of three towers by one linear layer. Here one tower's states "
            "are replaced on their way into that layer, by their mean over all users or by zero, "
            "and the model ranks again; below, a modality is left out of all content embeddings. "
            f"NDCG@10 on the validation targets of {n_users:,} users. Nothing is trained anew: "
            "this is what the trained model leans on.",
        ),
        plots=(Plot("towers", figure, alt, "The further left, the more the model leans on it."),),
        tables=(DataTable("towers", "The same in numbers", frame, is_open=False),),
    )
