"""Tables with a row per item, and how no more than one gradient of a large one is ever held."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

LARGE_TABLE = 100_000
"""Items above which a table's gradient is made once for all uses of the table."""


class ItemTable(nn.Embedding):
    """An embedding table of N items; row 0 is that of padding and gets no gradient.

    A loss uses it in up to three ways: it reads the rows of some items, compares with all rows, and
    punishes their norm. Within :func:`one_gradient` these are uses of one autograd node.

    Args:
        n_items: N.
        width: D.
    """

    def __init__(self, n_items: int, width: int) -> None:
        super().__init__(n_items + 1, width, padding_idx=0)
        self.uses: _Uses | None = None

    def forward(self, items: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch width"]:
        """Return the rows of item indices."""
        if self.uses is None:
            return super().forward(items)
        return F.embedding(items, self.uses.read, padding_idx=0, sparse=True)

    def rows_without(self, items: NDArray[np.integer]) -> Bool[Tensor, " items_and_padding"]:
        """Return which rows belong to none of these item indices; padding, which stays 0 by
        itself, does not count.
        """
        absent = np.bincount(items, minlength=self.num_embeddings) == 0
        absent[0] = False
        return torch.from_numpy(absent).to(self.weight.device)

    def all_rows(self) -> Float[Tensor, "items_and_padding width"]:
        """Return the whole table."""
        return self.weight if self.uses is None else self.uses.compared

    def norm(self) -> Float[Tensor, ""]:
        """Return ‖table‖₂, the Frobenius norm, without the padding row."""
        return torch.linalg.vector_norm(self.weight[1:]) if self.uses is None else self.uses.norm


@contextmanager
def one_gradient(tables: Iterable[ItemTable]) -> Iterator[None]:
    """Let each large table have one gradient of its size, whatever the loss made here uses it for.

    Autograd makes a dense gradient per use and adds them up, or adds the sparse one of the rows
    read to the dense one in a third place: at a million items a gigabyte each. Small tables are
    left to it.

    Note:
        Whatever :meth:`ItemTable.all_rows` goes into has to return a gradient that nobody else
        holds, because the others are added to it in place. Slicing, dropout in training and
        :class:`~sicsrec.models.blocked.BlockedCrossEntropy` do.
    """
    large = [table for table in tables if table.num_embeddings - 1 > LARGE_TABLE]
    try:
        for table in large:
            table.uses = _Uses(*_OneGradient.apply(table.weight))
        yield
    finally:
        for table in large:
            table.uses = None


class _Uses(NamedTuple):
    """A table as it is read, as it is compared with, and its norm."""

    read: Tensor
    compared: Tensor
    norm: Tensor


class _OneGradient(torch.autograd.Function):
    """``table -> (table, table, ‖table‖₂)`` with the sum of the three gradients in one tensor."""

    @staticmethod
    def forward(ctx: Any, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the table twice, without a copy, and the norm of all rows but that of padding."""
        norm = torch.linalg.vector_norm(table[1:])
        ctx.save_for_backward(table, norm)
        ctx.set_materialize_grads(False)
        return table.view_as(table), table.view_as(table), norm

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Tensor | None:
        """Return ``of_compared + of_norm * table / ‖table‖₂ + of_read``; ``of_read`` is sparse."""
        of_read, of_compared, of_norm = gradients
        table, norm = ctx.saved_tensors
        gradient = of_compared
        if of_norm is not None:
            gradient = torch.zeros_like(table) if gradient is None else gradient
            scale = torch.where(norm > 0, of_norm / norm, 0.0)
            gradient[1:].addcmul_(table[1:], scale)
        if of_read is not None:
            gradient = of_read.to_dense() if gradient is None else gradient.add_(of_read)
        return gradient
