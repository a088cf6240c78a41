"""Inverted dropout whose masks are cheap to draw on a CPU."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

_INT64_RANGE = (-(2**63), None)


def quantised_rate(p: float) -> tuple[float, torch.dtype]:
    """Return the rate that is really used for ``p``, and the integers it is drawn with.

    A value is dropped when a random integer lies among the lowest ``p`` of its range: of 8 bits if
    p is a multiple of 1/256, else of 16 bits, which is off p by at most 2**-17.

    Example:
        >>> quantised_rate(0.5)
        (0.5, torch.int8)
        >>> quantised_rate(0.3)
        (0.3000030517578125, torch.int16)
    """
    if (p * 256).is_integer():
        return p, torch.int8
    return min(round(p * 65536), 65535) / 65536, torch.int16


def keep_mask(like: Tensor, p: float) -> Bool[Tensor, "*shape"]:
    """Draw which values of ``like`` are kept, each with probability 1 - p independently.

    Torch draws one random number for each value of a mask; here one 64-bit number, from the same
    seeded generator, serves four or eight values.

    Args:
        like: gives the shape; on the CPU.
        p: a rate that :func:`quantised_rate` returns.
    """
    _, integers = quantised_rate(p)
    n_drawn = math.ceil(like.numel() * integers.itemsize / 8)
    drawn = torch.empty(n_drawn, dtype=torch.int64).random_(*_INT64_RANGE).view(integers)
    n_values = 1 << (8 * integers.itemsize)
    lowest_kept = round(p * n_values) - n_values // 2
    return (drawn[: like.numel()] >= lowest_kept).view(like.shape)


def dropout(x: Float[Tensor, "*shape"], p: float, training: bool) -> Float[Tensor, "*shape"]:
    """Set values to 0 with probability ``p`` and scale the others by 1 / (1 - p).

    On the CPU the rate is :func:`quantised_rate`, for the mask and the scale alike, so the
    expectation is x exactly; elsewhere this is torch's own dropout.

    Args:
        x: any values.
        p: in [0, 1).
        training: False returns ``x``.
    """
    if not training or p == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p, training)
    rate, _ = quantised_rate(p)
    # A product with the mask keeps one byte per value for the backward pass, as torch's does.
    return x * keep_mask(x, rate) * (1 / (1 - rate))


class Dropout(nn.Module):
    """:func:`dropout` as a module; active in training mode.

    Args:
        p: in [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Drop values of ``x`` in training mode."""
        return dropout(x, self.p, self.training)
