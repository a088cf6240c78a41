"""What encoders and sequence models compute in."""

from contextlib import AbstractContextManager

import torch

from sicsrec.config.encoders import Precision


def computing_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a model runs.

    Weights stay float32; under bfloat16 autocast matrix products round their inputs.

    Args:
        precision: ``auto`` is bfloat16 on CUDA and float32 elsewhere.
        device: where the model is.
    """
    is_half = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_half)
