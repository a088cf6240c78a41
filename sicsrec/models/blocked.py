"""Softmax cross entropy over a large catalogue, a block of items at a time."""

from typing import Any

import torch
from torch import Tensor


class BlockedCrossEntropy(torch.autograd.Function):
    """``Σ_t log Σ_i exp(u_t · v_i) - u_t · v_row(t)`` over the rows of ``v`` from ``first`` on.

    The forward pass keeps the logarithm of each target's partition sum; the backward pass computes
    each block's logits again and writes that block's gradient where it belongs. So one block of
    logits and the gradient of the table are all there ever is: no second table is added up.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, v: Tensor, rows: Tensor, first: int, size: int) -> Tensor:
        """Return the sum of the losses; blocks have ``size`` items."""
        log_sums = u.new_full((len(u),), float("-inf"))
        for start in range(first, len(v), size):
            logits = u @ v[start : start + size].T
            top = logits.amax(1)
            sums = logits.sub_(top[:, None]).exp_().sum(1)
            log_sums = torch.logaddexp(log_sums, sums.log_() + top)
            del logits  # or two blocks would be held while the next is made
        ctx.save_for_backward(u, v, rows, log_sums)
        ctx.first, ctx.size = first, size
        return (log_sums - (u * v[rows]).sum(1)).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of ``u`` and ``v``."""
        [scale] = gradients
        u, v, rows, log_sums = ctx.saved_tensors
        grad_u = -scale * v[rows]
        grad_v = torch.empty_like(v) if ctx.needs_input_grad[1] else None
        for start in range(ctx.first, len(v), ctx.size):
            block = v[start : start + ctx.size]
            shares = (u @ block.T).sub_(log_sums[:, None]).exp_().mul_(scale)
            grad_u.addmm_(shares, block)
            if grad_v is not None:
                torch.mm(shares.T, u, out=grad_v[start : start + ctx.size])
            del shares
        if grad_v is not None:
            grad_v[: ctx.first] = 0
            grad_v.index_add_(0, rows, -scale * u)
        return grad_u, grad_v, None, None, None
