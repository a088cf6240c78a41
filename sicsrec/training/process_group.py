"""What the processes of a torch process group ask of each other while they train one model."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sicsrec.models.base import SequenceModel, TokenBatch
from sicsrec.models.peers import Peers, Share


class _Gather(torch.autograd.Function):
    """Rows of all processes; the gradient of a row is the sum of what all processes give it.

    Every process fills in its rows and the rest is 0, so processes may have any number of rows.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, first: int, n_all: int, group: dist.ProcessGroup) -> Tensor:
        """Return [n_all, ...] of this process's ``rows`` [own, ...], which begin at ``first``."""
        ctx.rows, ctx.group = slice(first, first + len(rows)), group
        whole = rows.new_zeros(n_all, *rows.shape[1:])
        whole[ctx.rows] = rows
        dist.all_reduce(whole, group=group)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the own rows, [own, ...]."""
        [whole] = gradients
        whole = whole.contiguous().clone()
        dist.all_reduce(whole, group=ctx.group)
        return whole[ctx.rows], None, None, None


class GroupShare(Share):
    """One process's part of the targets of a batch.

    Args:
        counts: targets of every process, by rank.
        rank: of this process.
        group: among whom rows are gathered.
    """

    def __init__(self, counts: list[int], rank: int, group: dist.ProcessGroup) -> None:
        self.first = sum(counts[:rank])
        self._counts = counts
        self._n_all = sum(counts)
        self._weight = counts[rank] * len(counts) / max(1, self._n_all)
        self._group = group

    def weigh(self, mean: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """See :meth:`Share.weigh`."""
        # The mean over no targets is NaN; it has no gradient.
        return mean * self._weight if self._weight else torch.nan_to_num(mean, nan=0.0)

    def gather(self, rows: Float[Tensor, "own width"]) -> Float[Tensor, "all width"]:
        """See :meth:`Share.gather`."""
        return _Gather.apply(rows, self.first, self._n_all, self._group)

    def gather_numbers(self, numbers: Int[Tensor, " own"]) -> Int[Tensor, " all"]:
        """See :meth:`Share.gather_numbers`."""
        return _Gather.apply(numbers, self.first, self._n_all, self._group)


class GroupPeers(Peers):
    """The processes of the default group of :mod:`torch.distributed`, which must be set up.

    Args:
        device: where this process computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._device = device
        # Gradients travel while rows are gathered; in a group of their own neither waits for the
        # other, whatever the order in which processes come to them.
        group = dist.new_group()
        if not isinstance(group, dist.ProcessGroup):
            raise TypeError("this process is not part of the group")
        self._group = group

    def share(self, n_targets: int) -> Share:
        """See :meth:`Peers.share`."""
        counts = self.collect(torch.tensor([n_targets], device=self._device))
        return GroupShare([int(count) for count in counts], self.rank, self._group)

    def same(self, numbers: Int[Tensor, " some"]) -> Int[Tensor, " some"]:
        """See :meth:`Peers.same`."""
        numbers = numbers.contiguous()
        dist.broadcast(numbers, src=0, group=self._group)
        return numbers

    def average(self, values: Float[Tensor, "*some"]) -> Float[Tensor, "*some"]:
        """See :meth:`Peers.average`."""
        values = values.detach().clone()
        dist.all_reduce(values, group=self._group)
        return values / self.size

    def collect(self, state: Tensor) -> list[Tensor]:
        """See :meth:`Peers.collect`."""
        own = state.to(self._device)
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own, group=self._group)
        return [entry.to(state.device) for entry in found]


class _Loss(nn.Module):
    """A model's loss as the forward pass that :class:`DistributedDataParallel` wants."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: TokenBatch) -> dict[str, Tensor]:
        return self.model.loss(batch)


def shared_loss(model: SequenceModel, peers: Peers) -> Callable[[TokenBatch], dict[str, Tensor]]:
    """Return the model's loss such that its backward pass averages gradients over the processes.

    Args:
        model: with the same weights in all processes.
        peers: of the model.
    """
    if peers.size == 1:
        return model.loss
    return DistributedDataParallel(
        _Loss(model), forward_sync_buffers=False, gradient_as_bucket_view=True
    )
