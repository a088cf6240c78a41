"""What encoders and sequence models compute in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from sicsrec.config.encoders import Precision

_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""All but cuDNN's, which torch prefers on H100 and later: with masks, and at some lengths, releases
of it give gradients that are NaN, and it makes a plan for every new shape of a batch."""


@contextmanager
def computing_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Let a model run in a precision.

    Weights stay float32; under bfloat16 autocast matrix products round their inputs.

    Args:
        precision: ``auto`` is bfloat16 on CUDA and float32 elsewhere.
        device: where the model is.
    """
    is_half = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    half = torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_half)
    with half, sdpa_kernel(_ATTENTION):
        yield
