"""Simple rivals that every model has to beat: popularity and first-order item transitions.

Both are counts. They know an item only by how often it was watched, and an item that was never
watched in training scores lowest.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sicsrec.data.sequences import Histories
from sicsrec.evaluation.ranking import RankingSet


def item_counts(histories: Histories, n_items: int) -> NDArray[np.int64]:
    """Return how often each item was watched: [N], entry r belongs to item index r + 1."""
    return np.bincount(histories.items, minlength=n_items + 1)[1:].astype(np.int64)


@dataclass(frozen=True)
class TransitionCounts:
    """How often item b came right after item a, stored without the pairs that never occurred."""

    n_items: int
    pairs: NDArray[np.int64]
    """[P], ascending and distinct: ``(a - 1) * N + (b - 1)``."""
    counts: NDArray[np.int64]
    """[P], occurrences of each pair, at least 1."""

    @classmethod
    def from_histories(cls, histories: Histories, n_items: int) -> "TransitionCounts":
        """Count neighbours within every history; the last item of a user and the first of the next
        are no neighbours.
        """
        is_last = np.zeros(len(histories.items), dtype=np.bool_)
        is_last[histories.offsets[1:][histories.lengths > 0] - 1] = True
        before = np.flatnonzero(~is_last)
        return cls.from_pairs(histories.items[before], histories.items[before + 1], n_items)

    @classmethod
    def from_pairs(
        cls, before: NDArray[np.int32], after: NDArray[np.int32], n_items: int
    ) -> "TransitionCounts":
        """Count pairs of item indices that stand in the same row."""
        codes = (before.astype(np.int64) - 1) * n_items + after - 1
        pairs, counts = np.unique(codes, return_counts=True)
        return cls(n_items, pairs, counts.astype(np.int64))

    def __add__(self, other: "TransitionCounts") -> "TransitionCounts":
        """Return the counts of both."""
        pairs, inverse = np.unique(np.concatenate([self.pairs, other.pairs]), return_inverse=True)
        counts = np.zeros(len(pairs), dtype=np.int64)
        np.add.at(counts, inverse, np.concatenate([self.counts, other.counts]))
        return TransitionCounts(self.n_items, pairs, counts)

    def after(
        self, items: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return what followed each of some items: row of ``items``, column b - 1, count."""
        first = (items.astype(np.int64) - 1) * self.n_items
        starts = np.searchsorted(self.pairs, first)
        lengths = np.searchsorted(self.pairs, first + self.n_items) - starts
        rows = np.repeat(np.arange(len(items)), lengths)
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        entries = starts[rows] + within
        return rows, self.pairs[entries] % self.n_items, self.counts[entries]


class Popularity:
    """Scores an item by how often it was watched, the same for every user.

    Args:
        counts: [N], as :func:`item_counts` returns them.
    """

    name = "popularity"

    def __init__(self, counts: NDArray[np.int64]) -> None:
        self._scores = torch.from_numpy(counts.astype(np.float64))

    def score(self, histories: Histories) -> Float[Tensor, "users items"]:
        """See :meth:`sicsrec.evaluation.ranking.Scorer.score`."""
        return self._scores.expand(len(histories), len(self._scores))


class Transitions:
    """Scores an item by how often it followed the user's last item; popularity breaks ties.

    ``score_i = count(last -> i) + popularity_i / (max popularity + 1)``: popularity alone decides
    among items that never followed the last item, and for users with an empty history.

    Args:
        transitions: counts of neighbours.
        counts: [N], as :func:`item_counts` returns them.
        name: what messages and reports call it.
    """

    def __init__(
        self, transitions: TransitionCounts, counts: NDArray[np.int64], name: str = "transitions"
    ) -> None:
        self.name = name
        self._transitions = transitions
        # float64 keeps integer counts and the fraction apart, however large the log is.
        self._back_off = torch.from_numpy(counts / (counts.max() + 1.0))

    def score(self, histories: Histories) -> Float[Tensor, "users items"]:
        """See :meth:`sicsrec.evaluation.ranking.Scorer.score`."""
        scores = self._back_off.repeat(len(histories), 1)
        users = np.flatnonzero(histories.lengths)
        last = histories.items[histories.offsets[1:][users] - 1]
        rows, columns, counts = self._transitions.after(last)
        scores[torch.from_numpy(users[rows]), torch.from_numpy(columns)] += torch.from_numpy(counts)
        return scores


def make_popularity(train: Histories, n_items: int) -> Popularity:
    """Count the training histories."""
    return Popularity(item_counts(train, n_items))


def make_transitions(train: Histories, n_items: int) -> Transitions:
    """Count the training histories."""
    return Transitions(TransitionCounts.from_histories(train, n_items), item_counts(train, n_items))


def make_transitions_with_valid(train: Histories, valid: RankingSet, n_items: int) -> Transitions:
    """Count the training histories and, for every validation target, the step that leads to it.

    It has seen the validation targets, so only its test figures mean anything.
    """
    context = valid.histories
    users = np.flatnonzero(context.lengths)
    last = context.items[context.offsets[1:][users] - 1]
    leading_to_target = TransitionCounts.from_pairs(last, valid.targets[users], n_items)
    counts = item_counts(train, n_items) + np.bincount(valid.targets, minlength=n_items + 1)[1:]
    transitions = TransitionCounts.from_histories(train, n_items) + leading_to_target
    return Transitions(transitions, counts, name="transitions (train + valid)")
