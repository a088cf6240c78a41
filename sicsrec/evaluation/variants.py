"""Variants of one pipeline over several seeds: means, and differences to the first variant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sicsrec.errors import DataError
from sicsrec.evaluation.intervals import paired_difference
from sicsrec.evaluation.metrics import per_user_metrics

METRICS = ("hr_at_10", "ndcg_at_5", "ndcg_at_10")
"""What variants are compared by."""
CUTOFFS = (5, 10)

Runs = Mapping[str, Mapping[int, Path]]
"""Variant to seed to the ``per_user.parquet`` of the run; the first variant is compared with."""


@dataclass(frozen=True)
class Resampling:
    """How the intervals of differences are made."""

    n_bootstrap: int
    """Resamples of the users."""
    confidence: float
    """Coverage of the intervals."""
    seed: int
    """Of the resamples."""


@dataclass(frozen=True)
class _SeedRanks:
    """What one model of one run did on the test targets."""

    users: pl.DataFrame
    """Columns user_id and item_id (the target), by user id."""
    figures: NDArray[np.float64]
    """[U, M], metrics per user."""


def compare_variants(
    runs: Runs, models: Sequence[str], resampling: Resampling
) -> list[dict[str, Any]]:
    """Return one row per model and variant.

    A mean is taken over users and seeds. A difference is paired: for every user the metric is
    averaged over the seeds that both variants have, and users are resampled. So the interval knows
    how much users differ, not how much seeds do; ``<metric>_spread`` tells that.

    Args:
        runs: files of the runs that ended; a variant with no run gives no row.
        models: rows of the result table, e.g. ``SICSRec``.
        resampling: how intervals are made.

    Returns:
        Rows of model, variant, seeds, users and, for every metric m, ``m``, ``m_spread`` (largest
        minus smallest mean of a seed), ``m_difference``, ``m_low`` and ``m_high``. The last three
        are None for the first variant and where no run of the first can be compared: none with a
        seed of the variant ended, or its targets are others.

    Raises:
        DataError: if a file holds no test ranks of a model.
    """
    first = next(iter(runs), None)
    rows = []
    for model in models:
        read = {
            variant: {seed: _read(path, model) for seed, path in of_seed.items()}
            for variant, of_seed in runs.items()
            if of_seed
        }
        for variant, of_seed in read.items():
            row = {"model": model, "variant": variant} | _means(of_seed)
            rival = {} if variant == first else read.get(str(first), {})
            rows.append(row | _differences(of_seed, rival, resampling))
    return rows


def _read(path: Path, model: str) -> _SeedRanks:
    ranks = pl.read_parquet(path, glob=False).filter(split="test", model=model).sort("user_id")
    if not ranks.height:
        raise DataError(f"{path} holds no test ranks of {model!r}")
    by_name = per_user_metrics(ranks["rank"].to_numpy().astype(np.int64), CUTOFFS)
    figures = np.stack([by_name[metric] for metric in METRICS], axis=1)
    return _SeedRanks(ranks.select("user_id", "item_id"), figures)


def _means(of_seed: Mapping[int, _SeedRanks]) -> dict[str, Any]:
    means = np.stack([ranks.figures.mean(axis=0) for ranks in of_seed.values()])
    row: dict[str, Any] = {
        "seeds": len(of_seed),
        "users": max(len(ranks.figures) for ranks in of_seed.values()),
    }
    for column, metric in enumerate(METRICS):
        row[metric] = float(means[:, column].mean())
        row[f"{metric}_spread"] = float(np.ptp(means[:, column]))
    return row


def _differences(
    own: Mapping[int, _SeedRanks], rival: Mapping[int, _SeedRanks], resampling: Resampling
) -> dict[str, float | None]:
    shared = sorted(own.keys() & rival.keys())
    ends = ("difference", "low", "high")
    if not shared or not all(own[seed].users.equals(rival[seed].users) for seed in shared):
        return {f"{metric}_{end}": None for metric in METRICS for end in ends}
    ours, theirs = (
        np.mean([side[seed].figures for seed in shared], axis=0) for side in (own, rival)
    )
    row: dict[str, float | None] = {}
    for column, metric in enumerate(METRICS):
        compared = paired_difference(
            ours[:, column],
            theirs[:, column],
            n_resamples=resampling.n_bootstrap,
            confidence=resampling.confidence,
            seed=resampling.seed,
        )
        row |= {f"{metric}_{end}": getattr(compared, end) for end in ends}
    return row


def has_differences(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any variant could be compared with the first."""
    return any(row[f"{METRICS[0]}_difference"] is not None for row in rows)


def variant_table(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Return the rows of :func:`compare_variants` as a table."""
    return pl.DataFrame(rows, infer_schema_length=None)
