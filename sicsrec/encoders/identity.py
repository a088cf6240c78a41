"""Names an encoder by what it holds, which is the same on every machine, unlike where it lies."""

import hashlib
from pathlib import Path

import torch
from torch import nn

_LOCAL = "local-dir:"


def digest_weights(module: nn.Module) -> str:
    """Return the SHA-256 of names, shapes and values of all weights and kept buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        plain = value.detach().cpu().contiguous()
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def portable_name(model: str) -> str:
    """Return a model's name without the part of it that only holds on one machine.

    >>> portable_name("/home/me/models/bert-base"), portable_name("local-dir:/data/clip")
    ('bert-base', 'local-dir:clip')
    >>> portable_name("google-bert/bert-base-chinese")
    'google-bert/bert-base-chinese'
    """
    prefix = _LOCAL if model.startswith(_LOCAL) else ""
    path = Path(model.removeprefix(_LOCAL)).expanduser()
    return f"{prefix}{path.name}" if prefix or path.is_absolute() else model
