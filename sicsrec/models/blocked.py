"""Softmax cross entropy over a large catalogue, a block of items at a time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states


class BlockedCrossEntropy(torch.autograd.Function):
    """``Σ_t log Σ_i exp(u_t · v_i) - u_t · v_row(t)`` with ``v = prepare(table)``.

    i is over the rows of the table from ``first`` on. The forward pass keeps the logarithm of each
    target's partition sum; the backward pass prepares each block of rows again, with the same
    random numbers, computes its logits again and writes its gradient where it belongs. So one block
    of logits and the gradient of the table are all there ever is: neither v nor a second table is.

    With p_ti the softmax of target t's logits, the gradients are ``Σ_i p_ti v_i - v_row(t)`` for
    u_t and ``Σ_t p_ti u_t - [i = row(t)] u_t`` for v_i, passed on through ``prepare``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        table: Tensor,
        rows: Tensor,
        first: int,
        size: int,
        prepare: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return the sum of the losses.

        Args:
            ctx: keeps what the backward pass needs.
            u: [T, D], one vector per target.
            table: [first + N, D].
            rows: [T], the row of the table that each target is.
            first: rows at the beginning that are no items.
            size: items of a block.
            prepare: makes v [size, D] of rows of the table.
        """
        ctx.random_state = torch.get_rng_state(), *get_device_states(table)
        log_sums = u.new_full((len(u),), float("-inf"))
        own = u.new_zeros(len(u))
        for start in range(first, len(table), size):
            logits = u @ prepare(table[start : start + size]).T
            column, is_here = _columns(rows - start, logits.shape[1])
            own += logits.gather(1, column).masked_fill_(~is_here, 0.0)[:, 0]
            top = logits.amax(1)
            sums = logits.sub_(top[:, None]).exp_().sum(1)
            log_sums = torch.logaddexp(log_sums, sums.log_() + top)
            del logits  # or two blocks would be held while the next is made
        ctx.save_for_backward(u, table, rows, log_sums)
        ctx.first, ctx.size, ctx.prepare = first, size, prepare
        return (log_sums - own).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of ``u`` and of the table."""
        [scale] = gradients
        u, table, rows, log_sums = ctx.saved_tensors
        cpu_state, devices, device_states = ctx.random_state
        grad_u = torch.zeros_like(u)
        grad_table = torch.empty_like(table)
        grad_table[: ctx.first] = 0
        with torch.random.fork_rng(devices):
            torch.set_rng_state(cpu_state)
            set_device_states(devices, device_states)
            for start in range(ctx.first, len(table), ctx.size):
                block = table[start : start + ctx.size].detach().requires_grad_()
                with torch.enable_grad():
                    prepared = ctx.prepare(block)
                v = prepared.detach()
                p = (u @ v.T).sub_(log_sums[:, None]).exp_()
                column, is_here = _columns(rows - start, len(v))
                grad_logits = p.scatter_add_(1, column, -is_here.to(p.dtype)).mul_(scale)
                grad_u.addmm_(grad_logits, v)
                [grad_block] = torch.autograd.grad(prepared, block, grad_logits.T @ u)
                grad_table[start : start + ctx.size] = grad_block
                del p, grad_logits
        return grad_u, grad_table, None, None, None, None


def _columns(offsets: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the column of each target in a block of ``size`` and whether it is there, [T, 1]."""
    is_here = (offsets >= 0) & (offsets < size)
    return offsets.clamp(0, size - 1)[:, None], is_here[:, None]
