"""A blend: the models' scores and a few plain facts about a history, weighed by fitted weights.

The paper scores an item by one dot product. Measured on short histories that leaves much on the
table: it cannot say that a watched video is rarely watched again, it learns slowly which item
follows which, and it is blind to items that nobody has watched yet. A blend keeps the trained
models as they are and adds these facts in one log-linear score,

    score(h, i) = Σ_j w_j f_j(h, i),

whose weights, about twenty, are fitted on the validation targets
(:mod:`sicsrec.training.blending`). It is ours; the paper has none.

======================  ==========================================================================
``id_encoder``          h · e_i of step 1
``sicsrec_raw``         o · e_i
``sicsrec_normalised``  o · norm2(e_i) / τ
``sicsrec_content``     o · c_i / τ
``popularity``          log(1 + how often i was watched in training)
``cold``                1 where i was never watched in training
``watched``             1 where i is in the history
``next_g``              log(1 + how often i came g places after the g-th last item), g = 1, 2, 3
``previous_g``          log(1 + how often i came g places before the last item), g = 1, 2
``last_m``              cosine of i and the last item in modality m
``history_m``           the same, averaged over the whole history
``cold_m``              ``last_m`` where i was never watched in training
======================  ==========================================================================

Where i lacks modality m, the last three are the mean over the items that have it, which says
nothing for or against i: vectors of most encoders lie in a narrow cone, so 0 would say that i is
less like the history than all else. An item of the history that lacks it adds 0 to all alike.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sicsrec.data.sequences import Histories, item_counts
from sicsrec.data.transitions import TransitionCounts
from sicsrec.data.vectors import unit_rows
from sicsrec.models.base import SequenceModel

ID_SIDE, SICSREC_SIDE, CONTENT_SIDE = "ID encoder", "SICSRec", "content"
TRANSITIONS_SIDE, POPULARITY_SIDE = "transitions", "popularity"

NEXT_GAPS = (1, 2, 3)
PREVIOUS_GAPS = (1, 2)

_SCORED_AT_ONCE = 1 << 25
"""Values of a feature held at once, 128 MiB; with a few features at a time under way."""


def side_of(feature: str) -> str:
    """Return which side of the blend a feature belongs to, for people.

    Example:
        >>> side_of("history_text"), side_of("next_2")
        ('content', 'transitions')
    """
    kind = feature.split("_")[0]
    if feature in ("popularity", "cold"):
        return POPULARITY_SIDE
    if feature == "sicsrec_content" or kind in ("last", "history", "cold"):
        return CONTENT_SIDE
    names = {
        "id": ID_SIDE,
        "sicsrec": SICSREC_SIDE,
        "next": TRANSITIONS_SIDE,
        "previous": TRANSITIONS_SIDE,
    }
    return names.get(kind, feature)


@dataclass(frozen=True)
class HistoryFacts:
    """What a blend knows beside its models; counts are of training histories alone."""

    counts: NDArray[np.int64]
    """[N]; how often each item was watched."""
    transitions: Mapping[int, TransitionCounts]
    """Gap to counts."""
    vectors: Mapping[str, NDArray[np.float32]]
    """Modality to [N, D_m], rows of unit length, or 0 for items without the modality."""

    @classmethod
    def from_training(
        cls, train: Histories, n_items: int, vectors: Mapping[str, NDArray[np.float32]]
    ) -> "HistoryFacts":
        """Count training histories and scale item vectors to unit length.

        Args:
            train: training histories.
            n_items: N.
            vectors: modality to [N, D_m]; rows of items without the modality are 0.
        """
        transitions = {
            gap: TransitionCounts.from_histories(train, n_items, gap)
            for gap in sorted({*NEXT_GAPS, *PREVIOUS_GAPS})
        }
        unit = {modality: unit_rows(matrix) for modality, matrix in vectors.items()}
        return cls(item_counts(train, n_items), transitions, unit)


class Blend:
    """Scores items by a weighted sum of features.

    Args:
        models: whose scores are features; all of one catalogue and on one device, and trained no
            further once the blend has scored.
        facts: the other features.
        weights: weight of every feature that counts; one not named has the weight 0.
    """

    name = "blend"

    def __init__(
        self,
        models: Sequence[SequenceModel],
        facts: HistoryFacts,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.models = tuple(models)
        self.facts = facts
        self.weights = dict(weights or {})
        self.n_items = len(facts.counts)
        self.device = models[0].device
        counts = torch.from_numpy(facts.counts).to(self.device)
        self._popularity = torch.log1p(counts.float())
        self._is_cold = (counts == 0).float()
        self._previous = {gap: facts.transitions[gap].reversed() for gap in PREVIOUS_GAPS}
        self._vectors = {
            modality: torch.from_numpy(matrix).to(self.device)
            for modality, matrix in facts.vectors.items()
        }
        self._candidates = {
            modality: self.as_candidates(modality, vectors)
            for modality, vectors in self._vectors.items()
        }

    def as_candidates(
        self, modality: str, vectors: Float[Tensor, "candidates width"]
    ) -> Float[Tensor, "candidates width"]:
        """Return what histories are compared with: missing vectors are the catalogue's mean.

        By it a candidate's cosine is the mean of the cosines of all items that have the modality.

        Args:
            modality: one of the facts' modalities.
            vectors: of unit length, or 0 for candidates without the modality.
        """
        is_missing = ~vectors.any(dim=1, keepdim=True)
        if not is_missing.any():
            return vectors
        catalogue = self._vectors[modality]
        n_present = catalogue.any(dim=1).sum().clamp(min=1)
        return torch.where(is_missing, catalogue.sum(dim=0) / n_present, vectors)

    @cached_property
    def _parts(self) -> list[dict[str, tuple[Tensor, float]]]:
        """Each model's item vectors, made once: content of all items costs more than scoring it."""
        return [model.score_parts() for model in self.models]

    @torch.no_grad()
    def features(self, histories: Histories) -> Iterator[tuple[str, Float[Tensor, "users items"]]]:
        """Yield every feature by name, in a fixed order, one at a time to save memory."""
        for model, parts in zip(self.models, self._parts, strict=True):
            user = model.user_vectors(histories)
            for name, (vectors, temperature) in parts.items():
                yield name, user @ vectors.T / temperature
        yield "popularity", self._popularity.expand(len(histories), -1)
        yield "cold", self._is_cold.expand(len(histories), -1)
        yield "watched", self._watched(histories)
        last = histories.nth_last(1)
        for gap in NEXT_GAPS:
            items = last if gap == 1 else histories.nth_last(gap)
            yield f"next_{gap}", self._log_counts(self.facts.transitions[gap], items)
        for gap, counts in self._previous.items():
            yield f"previous_{gap}", self._log_counts(counts, last)
        for modality, candidates in self._candidates.items():
            of_last, of_history = self.similarities(histories, modality, candidates)
            yield f"last_{modality}", of_last
            yield f"history_{modality}", of_history
            yield f"cold_{modality}", of_last * self._is_cold

    def similarities(
        self, histories: Histories, modality: str, candidates: Float[Tensor, "candidates width"]
    ) -> tuple[Float[Tensor, "users candidates"], Float[Tensor, "users candidates"]]:
        """Return the cosines of candidates with the last item, and their means over the history.

        Args:
            histories: of the users.
            modality: one of the facts' modalities.
            candidates: as :meth:`as_candidates` returns them.
        """
        vectors = self._vectors[modality]
        of_last = _row_of(vectors, histories.nth_last(1)) @ candidates.T
        return of_last, _mean_rows(vectors, histories) @ candidates.T

    @torch.no_grad()
    def score(self, histories: Histories) -> Float[Tensor, "users items"]:
        """See :meth:`sicsrec.evaluation.ranking.Scorer.score`."""
        scores = torch.zeros(len(histories), self.n_items, device=self.device)
        for part, sums in self.in_parts(histories, scores):
            for name, feature in self.features(part):
                if weight := self.weights.get(name, 0.0):
                    sums.add_(feature, alpha=weight)
        return scores

    def in_parts(
        self, histories: Histories, scores: Float[Tensor, "users items"]
    ) -> Iterator[tuple[Histories, Float[Tensor, "part items"]]]:
        """Yield some users at a time, for features to stay small, with their rows of the scores."""
        n_users = max(1, _SCORED_AT_ONCE // scores.shape[1])
        return zip(histories.chunks(n_users), torch.split(scores, n_users), strict=False)

    def _watched(self, histories: Histories) -> Float[Tensor, "users items"]:
        watched = torch.zeros(len(histories), self.n_items, device=self.device)
        columns = histories.items.astype(np.int64) - 1
        watched[torch.from_numpy(histories.owners), torch.from_numpy(columns)] = 1.0
        return watched

    def _log_counts(
        self, counts: TransitionCounts, items: NDArray[np.int32]
    ) -> Float[Tensor, "users items"]:
        """Return log(1 + count) of what came after ``items``; 0 for users whose item is 0."""
        feature = torch.zeros(len(items), self.n_items, device=self.device)
        users = np.flatnonzero(items)
        rows, columns, found = counts.after(items[users])
        values = torch.from_numpy(np.log1p(found).astype(np.float32)).to(self.device)
        feature[torch.from_numpy(users[rows]), torch.from_numpy(columns)] = values
        return feature


def _row_of(
    vectors: Float[Tensor, "items width"], items: NDArray[np.int32]
) -> Float[Tensor, "users width"]:
    """Return the vector of one item per user; 0 for users whose item is 0."""
    rows = torch.from_numpy(items.astype(np.int64)).to(vectors.device)
    return vectors[(rows - 1).clamp(min=0)] * (rows > 0)[:, None]


def _mean_rows(
    vectors: Float[Tensor, "items width"], histories: Histories
) -> Float[Tensor, "users width"]:
    """Return the mean vector of every history; 0 for empty ones."""
    users = torch.from_numpy(histories.owners)
    rows = torch.from_numpy(histories.items.astype(np.int64) - 1).to(vectors.device)
    sums = vectors.new_zeros(len(histories), vectors.shape[1])
    sums.index_add_(0, users.to(vectors.device), vectors[rows])
    lengths = torch.from_numpy(np.maximum(histories.lengths, 1)).to(sums)
    return sums / lengths[:, None]
