"""What lists of recommendations are like apart from hitting: coverage, evenness, novelty."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sicsrec.evaluation.cohorts import head_items

N_GROUPS = 10
"""Groups of equally many items, by popularity."""


@dataclass(frozen=True)
class ListFigures:
    """Figures of the lists of many users."""

    coverage: float
    """Share of all items that occur in some list."""
    gini: float
    """How unevenly items are named: 0 when all equally often, near 1 when always the same."""
    novelty: float
    """Mean self-information of a named item in bits, see :func:`self_information`."""
    head_share: float
    """Share of the named items that are head items."""


def self_information(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how surprising it is that somebody watched an item, in bits.

    ``-log2((count_i + 1) / (Σ_j count_j + N))``; the 1 keeps items that nobody watched finite.

    Args:
        counts: [N], how often each item was watched.

    Example:
        >>> self_information(np.array([3, 1, 0, 0])).tolist()
        [1.0, 2.0, 3.0, 3.0]
    """
    share: NDArray[np.float64] = (counts + 1.0) / (counts.sum() + len(counts))
    bits: NDArray[np.float64] = -np.log2(share)
    return bits


def describe_lists(
    items: NDArray[np.int32], counts: NDArray[np.int64], head_share: float
) -> ListFigures:
    """Describe the recommendations of many users.

    Args:
        items: item indices of any shape; 0 stands for no item.
        counts: [N], how often each item was watched in training.
        head_share: share of the items, most watched first, that are called head.

    Raises:
        ValueError: if no item is named.
    """
    named = _named(items, len(counts))
    n_named = int(named.sum())
    if not n_named:
        raise ValueError("there are no recommendations to describe")
    return ListFigures(
        coverage=float((named > 0).mean()),
        gini=gini(named),
        novelty=float((named * self_information(counts)).sum() / n_named),
        head_share=float(named[head_items(counts, head_share)].sum() / n_named),
    )


def gini(values: NDArray[np.int64]) -> float:
    """Return the Gini coefficient of numbers that are not negative and not all 0.

    Example:
        >>> gini(np.array([1, 1, 1, 1])), gini(np.array([0, 0, 0, 4]))
        (0.0, 0.75)
    """
    ordered = np.sort(values).astype(np.float64)
    n = len(ordered)
    ranks = np.arange(1, n + 1)
    return float((2 * ranks - n - 1) @ ordered / (n * ordered.sum()))


def popularity_groups(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the group of every item: 0 for the most watched tenth, 9 for the least watched.

    Args:
        counts: [N]; of items watched equally often the lower index counts as more watched.
    """
    groups = np.empty(len(counts), dtype=np.int64)
    order = np.argsort(-counts, kind="stable")
    groups[order] = np.arange(len(counts)) * N_GROUPS // max(len(counts), 1)
    return groups


def group_shares(items: NDArray[np.int32], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the share of the named items that falls into each group, [N_GROUPS].

    Args:
        items: item indices of any shape; 0 stands for no item; at least one is named.
        groups: [N], as :func:`popularity_groups` returns them.
    """
    named = _named(items, len(groups))
    sums = np.bincount(groups, weights=named, minlength=N_GROUPS).astype(np.float64)
    shares: NDArray[np.float64] = sums / float(named.sum())
    return shares


def _named(items: NDArray[np.int32], n_items: int) -> NDArray[np.int64]:
    return np.bincount(items.ravel(), minlength=n_items + 1)[1:]
