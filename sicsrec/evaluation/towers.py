"""What each part of a trained SICSRec contributes: parts are silenced while it ranks.

Nothing is trained anew, so this says what the trained model leans on, not what a model trained
without the part would reach; for that there are the variants of :mod:`sicsrec.evaluation.variants`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sicsrec.data.sequences import Histories
from sicsrec.models.sicsrec import TOWERS, SICSRec


def mean_fusion_input(model: SICSRec, histories: Histories) -> Float[Tensor, " joined"]:
    """Return the mean of [H_id; H_c; H_mix] over all tokens of the histories, [3 D].

    Args:
        model: a trained model.
        histories: of which at least one is not empty.
    """
    total = torch.zeros(model.fusion.in_features, dtype=torch.float64, device=model.device)
    n_tokens = 0
    is_item = torch.zeros(0, 0, dtype=torch.bool, device=model.device)

    def see_items(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        nonlocal is_item
        del module
        is_item = arguments[0] > 0

    def add(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        nonlocal n_tokens
        del module
        states = arguments[0][is_item]
        total.add_(states.double().sum(dim=0))
        n_tokens += len(states)

    # What stands at padding means nothing and must not enter the mean.
    hooks = [
        model.id_encoder.item_embedding.register_forward_pre_hook(see_items),
        model.fusion.register_forward_pre_hook(add),
    ]
    try:
        model.user_vectors(histories)
    finally:
        for hook in hooks:
            hook.remove()
    return (total / n_tokens).float()


@contextmanager
def tower_replaced(
    model: SICSRec, tower: str, by: Float[Tensor, " joined"] | None
) -> Iterator[None]:
    """Replace one tower's input to the fusion inside the block.

    Args:
        model: the model, which is as before after the block.
        tower: one of :data:`sicsrec.models.sicsrec.TOWERS`.
        by: [3 D], of which the tower's part takes the place of its states; None puts 0 there.
    """
    width = model.fusion.in_features // len(TOWERS)
    start = list(TOWERS).index(tower) * width
    part = slice(start, start + width)

    def replace(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        del module
        joined = arguments[0].clone()
        joined[..., part] = 0.0 if by is None else by[part]
        return (joined,)

    hook = model.fusion.register_forward_pre_hook(replace)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def modality_silenced(model: SICSRec, modality: str) -> Iterator[None]:
    """Take one modality out of every content embedding inside the block.

    Args:
        model: the model, which is as before after the block.
        modality: one of its modalities.
    """

    def silence(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        del module, arguments
        return torch.zeros_like(output)

    hook = model.content_embedding.adapters[modality].register_forward_hook(silence)
    try:
        yield
    finally:
        hook.remove()
