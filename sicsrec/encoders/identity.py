"""Names an encoder by what it holds, which is the same on every machine, unlike where it lies."""

import hashlib

import torch
from torch import nn


def digest_weights(module: nn.Module) -> str:
    """Return the SHA-256 of names, shapes and values of all weights and kept buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        plain = value.detach().cpu().contiguous()
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
