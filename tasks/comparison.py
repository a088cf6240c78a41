"""The MLflow record of a comparison of variants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sicsrec.artifacts import ArtifactRef, ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.evaluation.names import title_of
from sicsrec.evaluation.plots import plot_differences
from sicsrec.evaluation.variants import (
    METRICS,
    Resampling,
    compare_variants,
    has_differences,
    variant_table,
)
from sicsrec.steps.evaluate import SICSREC, SICSREC_BLENDED
from tasks.record import markdown_table, open_store
from tasks.settings import Settings

PerUser = Mapping[str, Mapping[int, ArtifactRef]]
"""Variant to seed to the output ``evaluate/per_user`` of its run."""


@dataclass(frozen=True)
class ComparisonOutcome:
    """What a comparison found, and where it is recorded."""

    rows: list[dict[str, Any]]
    """See :func:`sicsrec.evaluation.variants.compare_variants`."""
    mlflow_experiment_id: str
    mlflow_run_id: str


def record_comparison(
    name: str, config: PipelineConfig, per_user: PerUser, not_run: Mapping[str, str]
) -> ComparisonOutcome:
    """Compare the variants and record table and picture in a run of its own.

    Args:
        name: of the comparison; the runs of the variants carry it as the tag ``comparison``.
        config: of the first variant.
        per_user: per-user ranks of all runs that ended, the first variant first.
        not_run: why a variant was skipped or a run failed.
    """
    store = ArtifactStore(Settings.from_environment().store_root)
    files = {
        variant: {seed: store.open(ref).path("per_user.parquet") for seed, ref in refs.items()}
        for variant, refs in per_user.items()
    }
    section = config.evaluate
    resampling = Resampling(section.n_bootstrap, section.confidence, config.seed)
    tags = {
        "comparison": name,
        "dataset": config.dataset,
        "not_run": "; ".join(f"{variant}: {reason}" for variant, reason in not_run.items()),
    }
    run = open_store().begin(config.dataset, f"comparison {name}", {}, tags)
    with run.closing():
        rows = compare_variants(files, (SICSREC, SICSREC_BLENDED), resampling)
        run.describe(describe_comparison(config.dataset, rows, not_run))
        tracker = run.tracker()
        tracker.log_table("variants", variant_table(rows))
        if has_differences(rows):
            figure = plot_differences(rows, next(iter(per_user)), METRICS)
            tracker.log_figure("variants", figure)
    return ComparisonOutcome(rows, run.experiment_id, run.run_id)


def describe_comparison(
    dataset: str, rows: Sequence[Mapping[str, Any]], not_run: Mapping[str, str]
) -> str:
    """Return the description of a comparison in Markdown: a table per model.

    Args:
        dataset: name of the data set.
        rows: see :func:`sicsrec.evaluation.variants.compare_variants`.
        not_run: why a variant was skipped or a run failed.
    """
    lines = [
        f"Variants on **{dataset}**: means over the seeds, and the difference to the first variant "
        "with its interval, bold where that excludes 0. The picture and the whole table are among "
        "the artifacts; the variants' own runs carry the same tag `comparison`."
    ]
    titles = [title_of(name) for name in METRICS]
    for model in dict.fromkeys(str(row["model"]) for row in rows):
        of_model = [row for row in rows if row["model"] == model]
        head = [f"{model}, test, {of_model[0]['users']:,} users", "seeds", *titles]
        cells = [
            [row["variant"], str(row["seeds"]), *(_compared(row, name) for name in METRICS)]
            for row in of_model
        ]
        lines += ["", *markdown_table(head, cells)]
    if not_run:
        lines += ["", *(f"- {variant}: {reason}" for variant, reason in not_run.items())]
    return "\n".join(lines)


def _compared(row: Mapping[str, Any], name: str) -> str:
    difference, low, high = (row[f"{name}_{end}"] for end in ("difference", "low", "high"))
    if difference is None:
        return f"{row[name]:.4f}"
    signed = f"{difference:+.4f}"
    told = f"**{signed}**" if low > 0 or high < 0 else signed
    return f"{row[name]:.4f} {told} ({low:+.4f} to {high:+.4f})"
