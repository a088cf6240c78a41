"""Ranks of several models over the same users to tables: results, differences, cohorts, users."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sicsrec.data.catalog import ItemCatalog
from sicsrec.evaluation.intervals import bootstrap_means, paired_differences, percentile_interval
from sicsrec.evaluation.metrics import metric_table, per_user_metrics
from sicsrec.evaluation.ranking import RankingSet

Row = dict[str, Any]


@dataclass(frozen=True)
class Protocol:
    """How ranks become figures."""

    cutoffs: tuple[int, ...]
    """Cut-offs k of HR@k and NDCG@k."""
    n_bootstrap: int
    """Resamples behind each interval."""
    confidence: float
    """Coverage of the intervals."""
    seed: int
    """Of the resamples."""

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics."""
        return list(metric_table(self.cutoffs))


@dataclass(frozen=True)
class RankedSplit:
    """What several models made of one held-out split."""

    split: str
    """``valid`` or ``test``."""
    ranking_set: RankingSet
    ranks: Mapping[str, NDArray[np.int64]]
    """Model to ranks [U]; row r belongs to row r of ``ranking_set``."""


def result_rows(
    ranked: RankedSplit, protocol: Protocol, users: NDArray[np.bool_] | None = None
) -> list[Row]:
    """Return, per model, every metric's mean with its interval.

    Args:
        ranked: ranks of all models.
        protocol: metrics and resampling.
        users: [U], who counts; None counts everybody.

    Returns:
        One row per model: model, split, users, and for every metric ``<m>``, ``<m>_low``,
        ``<m>_high``; None where no user counts.
    """
    chosen = np.ones(len(ranked.ranking_set), dtype=np.bool_) if users is None else users
    n_users = int(chosen.sum())
    names = protocol.metrics
    heads: list[Row] = [
        {"model": model, "split": ranked.split, "users": n_users} for model in ranked.ranks
    ]
    if n_users == 0:
        nothing = {f"{name}{end}": None for name in names for end in ("", "_low", "_high")}
        return [head | nothing for head in heads]
    values = _metric_columns(ranked, tuple(ranked.ranks), protocol, chosen)
    resampled = bootstrap_means(values, protocol.n_bootstrap, protocol.seed)
    low, high = percentile_interval(resampled, protocol.confidence)
    means = values.mean(axis=0)
    for index, head in enumerate(heads):
        for offset, name in enumerate(names):
            column = index * len(names) + offset
            head[name] = float(means[column])
            head[f"{name}_low"] = float(low[column])
            head[f"{name}_high"] = float(high[column])
    return heads


def difference_rows(
    ranked: RankedSplit, model: str, rivals: tuple[str, ...], protocol: Protocol
) -> list[Row]:
    """Return, per rival and metric, the paired difference ``model`` minus rival.

    Returns:
        Rows of split, model, rival, metric, difference, low, high, share_below_zero.
    """
    own = np.tile(_metric_columns(ranked, (model,), protocol), len(rivals))
    theirs = _metric_columns(ranked, rivals, protocol)
    # All at once, so that the users are drawn once.
    found = paired_differences(
        own,
        theirs,
        n_resamples=protocol.n_bootstrap,
        confidence=protocol.confidence,
        seed=protocol.seed,
    )
    compared = product(rivals, protocol.metrics)
    return [
        {"split": ranked.split, "model": model, "rival": rival, "metric": metric} | asdict(row)
        for (rival, metric), row in zip(compared, found, strict=True)
    ]


def _metric_columns(
    ranked: RankedSplit,
    models: Sequence[str],
    protocol: Protocol,
    users: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Return all metrics of every model, [U, models x metrics], of some users or all."""
    ranks = (
        ranked.ranks[model] if users is None else ranked.ranks[model][users] for model in models
    )
    columns = [
        column for own in ranks for column in per_user_metrics(own, protocol.cutoffs).values()
    ]
    return np.stack(columns, axis=1)


def cohort_rows(
    ranked: RankedSplit, cohorts: Mapping[str, NDArray[np.bool_]], protocol: Protocol
) -> list[Row]:
    """Return :func:`result_rows` of every cohort, each with the cohort's name."""
    return [
        {"cohort": cohort, **row}
        for cohort, users in cohorts.items()
        for row in result_rows(ranked, protocol, users)
    ]


def per_user_frame(
    ranked: RankedSplit, cohorts: Mapping[str, NDArray[np.bool_]], catalog: ItemCatalog
) -> pl.DataFrame:
    """Return one row per user and model: target, rank, and what is known of user and target.

    Returns:
        Columns user_id, split, model, item_id (the target), rank, history_length (of the whole
        context), is_cold (the target never occurs in training), is_head.
    """
    ranking_set = ranked.ranking_set
    users = pl.DataFrame(
        {
            "user_id": ranking_set.histories.user_ids,
            "split": pl.repeat(ranked.split, len(ranking_set), eager=True),
            "item_id": catalog.ids_of(ranking_set.targets),
            "history_length": pl.Series(ranking_set.histories.lengths, dtype=pl.Int32),
            "is_cold": cohorts["cold_target"],
            "is_head": cohorts["head_target"],
        }
    )
    frames = [
        users.with_columns(model=pl.lit(model), rank=pl.Series(ranks, dtype=pl.Int32))
        for model, ranks in ranked.ranks.items()
    ]
    return pl.concat(frames).select(
        "user_id", "split", "model", "item_id", "rank", "history_length", "is_cold", "is_head"
    )
