"""Ranks to metrics: one number per user, from the rank of the user's one held-out target.

A new metric is one function and one line in :data:`AT_CUTOFF` or :data:`WITHOUT_CUTOFF`. Every
user of the ranking counts, also one whose target never occurs in training: leaving such users out
would flatter every model that cannot know their targets.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Metric = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""Ranks [U] (1 is best) to values [U]."""


@runtime_checkable
class CutoffMetric(Protocol):
    """A metric that looks at the first ``cutoff`` items only."""

    def __call__(self, ranks: NDArray[np.int64], cutoff: int) -> NDArray[np.float64]:
        """Return the values [U] for ranks [U]."""
        ...


def hit_rate(ranks: NDArray[np.int64], cutoff: int) -> NDArray[np.float64]:
    """HR@k: whether the target is among the first k items.

    ``HR@k = 1 if rank <= k else 0``. With one target per user this is also recall at k.

    Args:
        ranks: [U], rank of each user's target, 1 is best.
        cutoff: k, at least 1.

    Returns:
        [U], each 0 or 1.

    Example:
        >>> hit_rate(np.array([1, 5, 6]), cutoff=5).tolist()
        [1.0, 1.0, 0.0]
    """
    return (ranks <= cutoff).astype(np.float64)


def ndcg(ranks: NDArray[np.int64], cutoff: int) -> NDArray[np.float64]:
    """NDCG@k with one relevant item: the discount at the target's rank.

    ``NDCG@k = 1 / log2(rank + 1) if rank <= k else 0``; the ideal ranking has 1, so no further
    division is needed.

    Args:
        ranks: [U], rank of each user's target, 1 is best.
        cutoff: k, at least 1.

    Returns:
        [U], each in [0, 1].

    Example:
        >>> ndcg(np.array([1, 3, 6]), cutoff=5).tolist()
        [1.0, 0.5, 0.0]
    """
    return np.where(ranks <= cutoff, 1.0 / np.log2(ranks + 1.0), 0.0)


def reciprocal_rank(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Reciprocal rank, whose mean over users is MRR; not cut off.

    ``RR = 1 / rank``.

    Args:
        ranks: [U], rank of each user's target, 1 is best.

    Returns:
        [U], each in (0, 1].

    Example:
        >>> reciprocal_rank(np.array([1, 2, 4])).tolist()
        [1.0, 0.5, 0.25]
    """
    return 1.0 / ranks


AT_CUTOFF: Mapping[str, CutoffMetric] = {
    "hr": hit_rate,
    "ndcg": ndcg,
}
"""Metrics that look at the first k items; ``hr`` at 10 is called ``hr_at_10``."""

WITHOUT_CUTOFF: Mapping[str, Metric] = {"mrr": reciprocal_rank}
"""Metrics of the whole ranking."""


def metric_table(cutoffs: Sequence[int]) -> dict[str, Metric]:
    """Return every metric by name, those with a cut-off once per cut-off.

    Args:
        cutoffs: the values of k.

    Example:
        >>> list(metric_table([5, 10]))
        ['hr_at_5', 'hr_at_10', 'ndcg_at_5', 'ndcg_at_10', 'mrr']
    """
    at_cutoff: dict[str, Metric] = {
        f"{name}_at_{cutoff}": partial(metric, cutoff=cutoff)
        for name, metric in AT_CUTOFF.items()
        for cutoff in cutoffs
    }
    return at_cutoff | dict(WITHOUT_CUTOFF)


def per_user_metrics(
    ranks: NDArray[np.int64], cutoffs: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """Return every metric's value for every user, by name.

    Args:
        ranks: [U], rank of each user's target, 1 is best.
        cutoffs: the values of k.
    """
    return {name: metric(ranks) for name, metric in metric_table(cutoffs).items()}


def mean_metrics(ranks: NDArray[np.int64], cutoffs: Sequence[int]) -> dict[str, float]:
    """Return every metric's mean over users, by name.

    Args:
        ranks: [U], rank of each user's target, 1 is best; U is at least 1.
        cutoffs: the values of k.

    Raises:
        ValueError: if there are no users, whose mean does not exist.

    Example:
        >>> mean_metrics(np.array([1, 20]), [10])
        {'hr_at_10': 0.5, 'ndcg_at_10': 0.5, 'mrr': 0.525}
    """
    if not len(ranks):
        raise ValueError("metrics need at least one ranked user")
    return {name: float(values.mean()) for name, values in per_user_metrics(ranks, cutoffs).items()}
