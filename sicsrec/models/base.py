"""What all sequence models share: a vector per token and per user, and one scoring rule."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from sicsrec.data.packing import PackedBatch, history_windows, last_tokens, pack
from sicsrec.data.sequences import Histories
from sicsrec.models.candidates import CandidateSampler, sampled_cross_entropy
from sicsrec.models.losses import next_item_cross_entropy
from sicsrec.models.peers import ALONE, Peers

PositionOrder = Literal["from_start", "from_end"]
"""Which token of a sequence has position 0: the oldest, or the most recent one."""
_ROWS_AT_ONCE = 64
"""Packed rows of histories encoded at once."""


@dataclass(frozen=True)
class TokenBatch:
    """A :class:`sicsrec.data.packing.PackedBatch` as tensors on a device; all are [R, L]."""

    items: Int[Tensor, "rows length"]
    positions: Int[Tensor, "rows length"]
    segments: Int[Tensor, "rows length"]
    targets: Int[Tensor, "rows length"]
    scored: Int[Tensor, " targets"] | None = None
    """Places of the tokens that have a target among all R · L, ascending. None: not looked up yet;
    on a GPU that means to wait until all that was asked of it is done."""

    @classmethod
    def from_packed(cls, batch: PackedBatch, device: torch.device) -> "TokenBatch":
        """Copy a packed batch to a device; a GPU goes on computing in the meantime."""
        columns = np.stack([batch.items, batch.positions, batch.segments, batch.targets])
        items, positions, segments, targets = _copied(columns, device).unbind()
        scored = _copied(np.flatnonzero(batch.targets), device)
        return cls(items, positions, segments, targets, scored)

    def positions_in(self, order: PositionOrder) -> Int[Tensor, "rows length"]:
        """Return the position of every token in its own sequence."""
        return self.positions if order == "from_start" else self.positions_from_end()

    def positions_from_end(self) -> Int[Tensor, "rows length"]:
        """Return how many tokens follow each token in its own sequence; 0 at padding."""
        rows, length = self.segments.shape
        sizes = self.segments.new_zeros(rows, length + 1)
        sizes.scatter_add_(1, self.segments, torch.ones_like(self.segments))
        following = sizes.gather(1, self.segments) - 1 - self.positions
        return torch.where(self.segments > 0, following, 0)


class SequenceModel(nn.Module, ABC):
    """A model that reads histories and scores every item of the catalogue.

    Subclasses give :meth:`encode` (a vector per token), :meth:`item_vectors` and :meth:`loss`;
    score_i = o · v_i, with the item vectors v, is the one scoring rule of training, ranking and
    export.
    """

    kind: str
    """Name under which :mod:`sicsrec.models.storage` finds the class again."""
    n_items: int
    max_history_length: int
    candidates: CandidateSampler | None = None
    """Whom the loss compares targets with; None: with all items. How a model is trained, not what
    it is: neither saved nor asked for in ranking."""
    peers: Peers = ALONE
    """Who trains this model together with this process, likewise."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the keyword arguments that make an equal, untrained model; JSON values only."""

    @abstractmethod
    def encode(self, batch: TokenBatch) -> Float[Tensor, "rows length width"]:
        """Return the user vector o_t at every token; at padding it means nothing."""

    @abstractmethod
    def item_vectors(self) -> Float[Tensor, "items width"]:
        """Return the vectors that user vectors are compared with; row r is item index r + 1."""

    @abstractmethod
    def loss(self, batch: TokenBatch) -> dict[str, Float[Tensor, ""]]:
        """Return the parts of the loss by name; ``loss`` is what is minimised."""

    def next_item_loss(
        self,
        batch: TokenBatch,
        all_vectors: Callable[[], Float[Tensor, "rows width"]],
        vectors_of: Callable[[Int[Tensor, " some"]], Float[Tensor, "some width"]],
        n_padding: int = 0,
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the cross entropy over all items, or over candidates that stand for them.

        Args:
            batch: with targets.
            all_vectors: gives the vectors of all items, asked for where there are no candidates.
            vectors_of: gives those of some item indices.
            n_padding: first rows of ``all_vectors`` that are no items.
        """
        user, targets = scored_tokens(self.encode(batch), batch)
        share = self.peers.share(len(targets))
        if self.candidates is None:
            loss = next_item_cross_entropy(user, all_vectors(), targets, n_padding=n_padding)
        else:
            items, log_inclusion = self.candidates.draw(share.gather_numbers(targets), self.peers)
            loss = sampled_cross_entropy(user, vectors_of(items), targets, items, log_inclusion)
        return {"loss": share.weigh(loss)}

    @torch.no_grad()
    def score_parts(self) -> dict[str, tuple[Float[Tensor, "items width"], float]]:
        """Return v and τ of the scores o · v_i / τ that may be weighed apart, by name.

        Where a model has but one way to score, that is :meth:`score` under the model's ``kind``.
        """
        return {self.kind: (self.item_vectors().detach(), 1.0)}

    def own_weights(self) -> dict[str, float]:
        """Return the weights of :meth:`score_parts` by which a sum of them ranks as the model."""
        return {self.kind: 1.0}

    def unread_rows(self, train: Histories) -> list[tuple[Tensor, Bool[Tensor, " rows"]]]:
        """Return tables that do not start at random numbers, and their rows that no batch reads.

        Whatever training does to such a row it has not learned from these histories.
        """
        del train
        return []

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @torch.no_grad()
    def user_vectors(self, histories: Histories) -> Float[Tensor, "users width"]:
        """Return one vector per user: o at the last of the most recent items.

        An empty history says nothing about a user: its vector is 0, so all its scores are equal.

        Args:
            histories: of any length; cut to the most recent ``max_history_length`` items.
        """
        was_training = self.training
        self.eval()
        length = self.max_history_length
        rows_with_items = histories.lengths.nonzero()[0]
        windows = history_windows(histories.take(rows_with_items), length)
        packed = pack(histories.take(rows_with_items).items, windows, length, with_targets=False)
        tokens = TokenBatch.from_packed(packed, self.device)
        place = torch.from_numpy(last_tokens(windows, length)).to(self.device)
        found = []
        for first in range(0, len(packed.items), _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            part = TokenBatch(
                tokens.items[rows],
                tokens.positions[rows],
                tokens.segments[rows],
                tokens.targets[rows],
            )
            inside = (place >= first * length) & (place < (first + len(part.items)) * length)
            found.append(self.encode(part).flatten(0, 1)[place[inside] - first * length])
        self.train(was_training)
        # All item vectors are not made for their width where a user vector tells it.
        width = found[0].shape[1] if found else self.item_vectors().shape[1]
        vectors = torch.zeros(len(histories), width, device=self.device)
        if found:
            vectors[torch.from_numpy(rows_with_items).to(self.device)] = torch.cat(found)
        return vectors

    @torch.no_grad()
    def score(self, histories: Histories) -> Float[Tensor, "users items"]:
        """Return the score of every item for every user; column j is item index j + 1."""
        return self.fixed().score(histories)

    @torch.no_grad()
    def fixed(self) -> "FixedScorer":
        """Return what scores as this model does now and makes the item vectors but once."""
        return FixedScorer(self, self.item_vectors().detach())


@dataclass(frozen=True)
class FixedScorer:
    """A model whose item vectors are made: content of all items costs more than scoring it.

    For rankings of many users, block by block; the model may not be trained on in the meantime.
    """

    model: SequenceModel
    item_vectors: Float[Tensor, "items width"]

    @property
    def name(self) -> str:
        """Name of the model in messages."""
        return str(getattr(self.model, "name", type(self.model).__name__))

    @property
    def device(self) -> torch.device:
        """Where it scores."""
        return self.item_vectors.device

    @property
    def n_items(self) -> int:
        """Return N."""
        return len(self.item_vectors)

    @torch.no_grad()
    def score(self, histories: Histories) -> Float[Tensor, "users items"]:
        """See :meth:`SequenceModel.score`."""
        return self.model.user_vectors(histories) @ self.item_vectors.T


def scored_tokens(
    hidden: Float[Tensor, "rows length width"], batch: TokenBatch
) -> tuple[Float[Tensor, "targets width"], Int[Tensor, " targets"]]:
    """Return the vectors at all tokens that have a target, and these targets."""
    scored = batch.scored
    if scored is None:
        scored = batch.targets.flatten().nonzero()[:, 0]
    return hidden.flatten(0, 1).index_select(0, scored), batch.targets.flatten()[scored]


def _copied(values: NDArray[np.int64], device: torch.device) -> Tensor:
    found = torch.from_numpy(values)
    if device.type != "cuda":
        return found.to(device)
    # From memory that the system cannot move the GPU copies by itself, while this thread goes on.
    return found.pin_memory().to(device, non_blocking=True)
