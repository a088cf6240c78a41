"""Groups of users for whom a model may do better or worse than the mean says."""

import numpy as np
from numpy.typing import NDArray

from sicsrec.evaluation.ranking import RankingSet

LABELS = {
    "warm_target": "target seen in training",
    "cold_target": "target never seen in training",
    "head_target": "target among the most watched",
    "tail_target": "target in the tail",
    "short_history": "short history",
    "long_history": "long history",
}
"""Every cohort and what a reader is told it is. Each pair covers all users once."""


def head_items(counts: NDArray[np.int64], head_share: float) -> NDArray[np.bool_]:
    """Return which items are head: the most watched ``head_share`` of all items.

    Args:
        counts: [N], how often each item was watched in training.
        head_share: in [0, 1]; the number of head items is rounded up. Of items watched equally
            often at the border, those of lower index are head; an item never watched is not.

    Returns:
        [N], entry r belongs to item index r + 1.
    """
    # 0.07 * 100 is a little more than 7, which must not give an eighth.
    n_head = int(np.ceil(round(head_share * len(counts), 9)))
    is_head = np.zeros(len(counts), dtype=np.bool_)
    is_head[np.argsort(-counts, kind="stable")[:n_head]] = True
    return is_head & (counts > 0)


def find_cohorts(
    ranking_set: RankingSet,
    train_counts: NDArray[np.int64],
    *,
    head_share: float,
    short_history: int,
) -> dict[str, NDArray[np.bool_]]:
    """Return who belongs to which cohort.

    Args:
        ranking_set: users with context and target.
        train_counts: [N], how often each item was watched in training.
        head_share: share of the items that are called head.
        short_history: contexts of at most so many items, empty ones too, are called short.

    Returns:
        For every name in :data:`LABELS` a mask [U] over the users of ``ranking_set``.
    """
    is_warm = train_counts[ranking_set.targets - 1] > 0
    is_head = head_items(train_counts, head_share)[ranking_set.targets - 1]
    is_short = ranking_set.histories.lengths <= short_history
    return {
        "warm_target": is_warm,
        "cold_target": ~is_warm,
        "head_target": is_head,
        "tail_target": ~is_head,
        "short_history": is_short,
        "long_history": ~is_short,
    }
