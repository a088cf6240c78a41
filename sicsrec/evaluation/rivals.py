"""Simple rivals that every model has to beat: popularity and first-order item transitions.

Both are counts. They know an item only by how often it was watched, and an item that was never
watched in training scores lowest.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sicsrec.data.sequences import Histories, item_counts
from sicsrec.data.transitions import TransitionCounts


class Popularity:
    """Scores an item by how often it was watched, the same for every user.

    Args:
        counts: [N], as :func:`sicsrec.data.sequences.item_counts` returns them.
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
        counts: [N], as :func:`sicsrec.data.sequences.item_counts` returns them.
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


def make_transitions_with_valid(train: Histories, valid: Histories, n_items: int) -> Transitions:
    """Count the training histories, each followed by what its user watched in validation.

    It has seen the validation targets, so only its test figures mean anything.
    """
    histories = train.followed_by(valid)
    counts = TransitionCounts.from_histories(histories, n_items)
    return Transitions(counts, item_counts(histories, n_items), name="transitions (train + valid)")
