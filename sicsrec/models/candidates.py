"""Sampled softmax with logQ correction, for catalogues too large for the full one."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from sicsrec.models.losses import mean_in_parts
from sicsrec.models.peers import ALONE, Peers

MAX_LOGITS = 1 << 24
"""Most logits held at once (64 MiB in float32); more targets are worked off in parts."""


class CandidateSampler:
    """Draws the items that a batch's targets are compared with instead of with all N.

    Candidates are ``n_sampled`` distinct items, drawn uniformly, and all targets of the batch,
    which come as often as they are popular. With p_i the share of item i among all training targets
    and B targets in the batch, i is a candidate with probability

    ``π_i = 1 - (1 - n_sampled / N) (1 - p_i)^(B - 1)``

    the B - 1 being the other targets of the batch, taken as independent draws.

    Args:
        n_sampled: items drawn uniformly; at least N draws every item.
        target_counts: how often each item is a training target; entry r is item index r + 1.
    """

    def __init__(self, n_sampled: int, target_counts: Int[Tensor, " items"]) -> None:
        self.n_items = len(target_counts)
        self.target_counts = target_counts
        self.n_sampled = min(n_sampled, self.n_items)
        shares = target_counts / target_counts.sum().clamp(min=1)
        # Finite also for the only item that is ever a target.
        self._log_miss = torch.log1p(-shares.clamp(max=1 - 1e-6))

    def draw(
        self, targets: Int[Tensor, " targets"], peers: Peers = ALONE
    ) -> tuple[Int[Tensor, " candidates"], Float[Tensor, " candidates"]]:
        """Return the distinct candidates of a batch, ascending item indices, and their log π.

        Args:
            targets: of the whole batch.
            peers: who is given the same candidates.
        """
        drawn = torch.randperm(self.n_items, device=targets.device)[: self.n_sampled] + 1
        drawn = peers.same(drawn)
        items = torch.unique(torch.cat([drawn, targets]))
        self._log_miss = self._log_miss.to(targets.device)
        missed_by_batch = (len(targets) - 1) * self._log_miss[items - 1]
        missed = (1 - self.n_sampled / self.n_items) * torch.exp(missed_by_batch)
        return items, torch.log1p(-missed)


def sampled_cross_entropy(
    user_vectors: Float[Tensor, "targets width"],
    candidate_vectors: Float[Tensor, "candidates width"],
    targets: Int[Tensor, " targets"],
    candidates: Int[Tensor, " candidates"],
    log_inclusion: Float[Tensor, " candidates"],
    max_logits: int = MAX_LOGITS,
) -> Float[Tensor, ""]:
    """Softmax cross entropy over candidates that stand for all items, the mean over the targets.

    ``-mean_t log( exp(s_tt) / (exp(s_tt) + Σ_{i ≠ target(t)} exp(s_ti) / π_i) )``, s_ti = u_t · v_i
    and i over the candidates. Each candidate counts for the 1 / π_i items it stands for, so the sum
    below the line has the full softmax's sum as its expectation; if every item is a candidate, π is
    1 and the loss is the full softmax's. A candidate occurs once, and the target itself counts as
    itself, so a target that was also drawn adds nothing.

    Args:
        user_vectors: u, any scale; temperatures are applied by the caller.
        candidate_vectors: v, row r belongs to ``candidates[r]``.
        targets: item indices; each is among the candidates.
        candidates: distinct item indices, ascending.
        log_inclusion: log π of the candidates.
        max_logits: most logits held at once. Where targets x candidates exceeds it the targets are
            worked off in parts, whose logits are computed again in the backward pass.

    Returns:
        The loss.
    """
    own = torch.searchsorted(candidates, targets)
    # Each logit stands for many items' and is computed twice: as with all items, in full precision.
    with torch.autocast(user_vectors.device.type, enabled=False):
        user_vectors, candidate_vectors = user_vectors.float(), candidate_vectors.float()

        def summed(user: Tensor, own: Tensor) -> Tensor:
            logits = user @ candidate_vectors.T - log_inclusion
            # The target stands for itself alone.
            logits = logits.scatter_add(1, own[:, None], log_inclusion[own][:, None])
            return F.cross_entropy(logits, own, reduction="sum")

        return mean_in_parts(summed, user_vectors, own, max_logits // len(candidates))
