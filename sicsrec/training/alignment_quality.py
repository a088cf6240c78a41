"""What alignment is good for, measured before and after it on a fixed sample of items."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sicsrec.training.pair_batches import PAIR_TERMS, Pairs
from sicsrec.training.tower import Tower

MAX_ITEMS = 2000
"""Pairs that are asked about, and items that are drawn to be ranked beside theirs."""
CUTOFFS = (1, 10)

_BATCH_SIZE = 256


@dataclass(frozen=True)
class Quality:
    """How good encoders and adapters are at one moment."""

    numbers: dict[str, float | int]
    text: NDArray[np.float32]
    """[sample, width] adapter outputs of items with text and image."""
    image: NDArray[np.float32]
    """[sample, width] the same of their images."""
    items: NDArray[np.int32]
    """[sample] their item indices, ascending."""


def measure_quality(
    towers: Mapping[str, Tower],
    aside: Pairs,
    both: NDArray[np.int32],
    both_aside: NDArray[np.int32],
    seed: int,
) -> Quality:
    """Measure encoders and adapters as they are.

    By the *encoder's* vectors, which later steps read, at unit length:

    * ``t2t_recall_at_k``, ``v2v_recall_at_k``: share of the pairs held aside whose positive is
      among the k items nearest to the anchor;
    * ``t2t_alignment``, ``v2v_alignment``: mean of ``|x - y|^2`` over these pairs (0 is best);
    * ``text_uniformity``, ``image_uniformity``: ``log mean exp(-2 |x - y|^2)`` over all pairs of
      different items (0: all in one place; lower is more even).

    By the adapters' vectors, of items with text and image:

    * ``t2v_recall_at_k``, ``v2t_recall_at_k``: share of the items whose own image (text) is among
      the k nearest to their text (image); ``held_out_t2v_recall_at_k`` and ``held_out_v2t_...``:
      the same share of the items that the text-image term never saw, among all that are ranked;
    * ``t2v_alignment``: mean of ``|t - v|^2`` of an item's own two vectors;
    * ``adapted_text_uniformity``, ``adapted_image_uniformity``: as above;
    * ``modality_gap``: distance of the two mean vectors.

    As in the losses, an item whose text or cover is that of anchor or target is nobody's rival:
    nothing could tell the two apart.

    Alignment and uniformity are those of Wang and Isola (arXiv 2005.10242).

    Args:
        towers: by modality.
        aside: pairs that training does not see.
        both: items with text and image.
        both_aside: those of them that the text-image term does not see.
        seed: picks the sample.
    """
    rng = np.random.default_rng(seed)
    asked = aside.take(np.sort(rng.permutation(len(aside))[:MAX_ITEMS]))
    items = _sample(towers, asked, both, both_aside, rng)
    numbers: dict[str, float | int] = {"items_ranked": len(items), "pairs_asked": len(asked)}
    adapted: dict[str, Tensor] = {}
    shown = items[np.isin(items, both)]
    with torch.no_grad():
        for modality, tower in towers.items():
            tower.encoder.eval()
            some = items[tower.has_modality[items]]
            vectors = _encode(tower, some)
            numbers |= _pair_quality(PAIR_TERMS[modality], vectors, some, asked, tower)
            if len(some) > 1:
                unit = F.normalize(vectors, dim=-1)
                numbers[f"{modality}_uniformity"] = _uniformity(unit)
            is_both = torch.from_numpy(np.isin(some, both)).to(vectors.device)
            adapted[modality] = tower.adapter(vectors)[is_both]
    nothing = np.zeros((0, 0), dtype=np.float32)
    if len(adapted) < 2 or not len(shown):
        return Quality(numbers, nothing, nothing, items[:0])
    text, image = adapted["text"], adapted["image"]
    twins = torch.stack([tower.twins(shown, shown) for tower in towers.values()]).any(dim=0)
    numbers |= _cross_modal(text, image, np.isin(shown, both_aside), twins)
    return Quality(numbers, text.cpu().numpy(), image.cpu().numpy(), shown)


def _encode(tower: Tower, items: NDArray[np.int32]) -> Float[Tensor, "items width"]:
    """Return the encoder's vectors of items that have the modality."""
    if not len(items):
        device = next(tower.encoder.parameters()).device
        return torch.zeros(0, tower.encoder.dim, device=device)
    chunks = tower.inputs.plan(items, _BATCH_SIZE)
    encoded = torch.cat([tower.inputs.encode(items[rows]) for rows in chunks])
    order = torch.from_numpy(np.argsort(np.concatenate(chunks))).to(encoded.device)
    return encoded[order]


def _sample(
    towers: Mapping[str, Tower],
    asked: Pairs,
    both: NDArray[np.int32],
    both_aside: NDArray[np.int32],
    rng: np.random.Generator,
) -> NDArray[np.int32]:
    has_any = np.logical_or.reduce([tower.has_modality for tower in towers.values()])
    # Items with both modalities come first, of these the ones held aside: they are asked about.
    rest = np.setdiff1d(np.flatnonzero(has_any), both)
    seen = np.setdiff1d(both, both_aside)
    parts = [rng.permutation(part) for part in (both_aside, seen, rest)]
    drawn = np.concatenate(parts)[:MAX_ITEMS]
    named = np.concatenate([asked.anchors, asked.positives])
    return np.union1d(drawn, named[has_any[named]]).astype(np.int32)


def _pair_quality(
    term: str,
    vectors: Float[Tensor, "items width"],
    items: NDArray[np.int32],
    asked: Pairs,
    tower: Tower,
) -> dict[str, float | int]:
    usable = np.isin(asked.anchors, items) & np.isin(asked.positives, items)
    if not usable.any():
        return {}
    device = vectors.device
    anchors = torch.from_numpy(np.searchsorted(items, asked.anchors[usable])).to(device)
    positives = torch.from_numpy(np.searchsorted(items, asked.positives[usable])).to(device)
    unit = F.normalize(vectors, dim=-1)
    scores = unit[anchors] @ unit.T
    is_left_out = tower.twins(asked.anchors[usable], items)
    is_left_out |= tower.twins(asked.positives[usable], items)
    distance = (unit[anchors] - unit[positives]).square().sum(dim=1).mean()
    return {
        **_recalls(term, scores, positives, is_left_out),
        f"{term}_alignment": round(float(distance), 6),
    }


def _uniformity(unit: Float[Tensor, "items width"]) -> float:
    squares = (2.0 - 2.0 * (unit @ unit.T)).clamp(min=0.0).double()
    is_own = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    return round(float(squares.mul(-2.0).exp()[~is_own].mean().log()), 6)


def _cross_modal(
    text: Float[Tensor, "items width"],
    image: Float[Tensor, "items width"],
    is_aside: NDArray[np.bool_],
    twins: Bool[Tensor, "items items"],
) -> dict[str, float | int]:
    own = torch.arange(len(text), device=text.device)
    scores = text @ image.T
    quality: dict[str, float | int] = {
        **_recalls("t2v", scores, own, twins),
        **_recalls("v2t", scores.T, own, twins),
        "t2v_alignment": round(float((text - image).square().sum(dim=1).mean()), 6),
        "modality_gap": round(float((text.mean(dim=0) - image.mean(dim=0)).norm()), 6),
    }
    if len(text) > 1:
        quality["adapted_text_uniformity"] = _uniformity(text)
        quality["adapted_image_uniformity"] = _uniformity(image)
    if is_aside.any():
        rows = torch.from_numpy(np.flatnonzero(is_aside)).to(text.device)
        for term, values in (("t2v", scores), ("v2t", scores.T)):
            quality |= _recalls(f"held_out_{term}", values[rows], own[rows], twins[rows])
    return quality


def _recalls(
    term: str,
    scores: Float[Tensor, "questions items"],
    targets: Int[Tensor, " questions"],
    is_left_out: Bool[Tensor, "questions items"],
) -> dict[str, float | int]:
    """Return the share of targets ranked among the first k; ties count against the target."""
    own = scores.gather(1, targets[:, None])
    is_ahead = (scores >= own) & ~is_left_out
    is_ahead[torch.arange(len(targets), device=targets.device), targets] = False
    ranks = is_ahead.sum(dim=1)
    return {f"{term}_recall_at_{k}": round(float((ranks < k).double().mean()), 6) for k in CUTOFFS}
