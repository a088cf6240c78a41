"""The MLflow record of a comparison of variants."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sicsrec.artifacts import ArtifactRef, ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.evaluation.plots import plot_differences
from sicsrec.evaluation.variants import (
    METRICS,
    Resampling,
    compare_variants,
    has_differences,
    variant_table,
)
from sicsrec.steps.evaluate import SICSREC, SICSREC_BLENDED
from tasks.record import open_store
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
        tracker = run.tracker()
        tracker.log_table("variants", variant_table(rows))
        if has_differences(rows):
            figure = plot_differences(rows, next(iter(per_user)), METRICS)
            tracker.log_figure("variants", figure)
    return ComparisonOutcome(rows, run.experiment_id, run.run_id)
