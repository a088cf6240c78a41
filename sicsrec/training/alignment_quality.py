"""What alignment is good for, measured before and after it on a fixed sample of items."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sicsrec.training.pair_batches import Pairs
from sicsrec.training.tower import Tower

MAX_ITEMS = 2000
"""Items that are ranked, and pairs that are asked for; more are sampled."""
CUTOFFS = (1, 10)

_BATCH_SIZE = 256
_TERM_OF = {"text": "t2t", "image": "v2v"}


def measure_quality(
    towers: Mapping[str, Tower], aside: Pairs, both: NDArray[np.int32], seed: int
) -> dict[str, float | int]:
    """Measure encoders and adapters as they are.

    * ``t2t_recall_at_k``, ``v2v_recall_at_k``: share of the pairs held aside whose positive is
      among the k items nearest to the anchor by the *encoder's* vectors, which later steps read.
    * ``t2v_recall_at_k``, ``v2t_recall_at_k``: share of the items whose own image (text) is among
      the k nearest to their text (image), by the adapters' vectors.
    * ``modality_gap``: distance of the two mean adapter vectors.

    Args:
        towers: by modality.
        aside: pairs that training does not see.
        both: items with text and image.
        seed: picks the sample.
    """
    rng = np.random.default_rng(seed)
    asked = aside.take(np.sort(rng.permutation(len(aside))[:MAX_ITEMS]))
    items = _sample(towers, asked, both, rng)
    quality: dict[str, float | int] = {"items_ranked": len(items), "pairs_asked": len(asked)}
    adapted: dict[str, Tensor] = {}
    with torch.no_grad():
        for modality, tower in towers.items():
            tower.encoder.eval()
            some = items[tower.has_modality[items]]
            vectors = torch.cat(
                [
                    tower.inputs.encode(some[start : start + _BATCH_SIZE])
                    for start in range(0, len(some), _BATCH_SIZE)
                ]
            )
            quality |= _pair_recall(_TERM_OF[modality], vectors, some, asked)
            is_both = torch.from_numpy(np.isin(some, both)).to(vectors.device)
            adapted[modality] = tower.adapter(vectors)[is_both]
    if len(adapted) == 2 and len(adapted["text"]):
        quality |= _cross_modal(adapted["text"], adapted["image"])
    return quality


def _sample(
    towers: Mapping[str, Tower], asked: Pairs, both: NDArray[np.int32], rng: np.random.Generator
) -> NDArray[np.int32]:
    has_any = np.logical_or.reduce([tower.has_modality for tower in towers.values()])
    # Items with both modalities are taken first: recall across modalities needs them.
    rest = np.setdiff1d(np.flatnonzero(has_any), both)
    drawn = np.concatenate([rng.permutation(both), rng.permutation(rest)])[:MAX_ITEMS]
    named = np.concatenate([asked.anchors, asked.positives])
    return np.union1d(drawn, named[has_any[named]]).astype(np.int32)


def _pair_recall(
    term: str,
    vectors: Float[Tensor, "items width"],
    items: NDArray[np.int32],
    asked: Pairs,
) -> dict[str, float | int]:
    usable = np.isin(asked.anchors, items) & np.isin(asked.positives, items)
    if not usable.any():
        return {}
    device = vectors.device
    anchors = torch.from_numpy(np.searchsorted(items, asked.anchors[usable])).to(device)
    positives = torch.from_numpy(np.searchsorted(items, asked.positives[usable])).to(device)
    unit = functional.normalize(vectors, dim=-1)
    scores = unit[anchors] @ unit.T
    is_anchor = torch.zeros_like(scores, dtype=torch.bool)
    is_anchor[torch.arange(len(anchors), device=device), anchors] = True
    return _recalls(term, scores, positives, is_anchor)


def _cross_modal(
    text: Float[Tensor, "items width"], image: Float[Tensor, "items width"]
) -> dict[str, float | int]:
    own = torch.arange(len(text), device=text.device)
    nobody = torch.zeros(len(text), len(text), dtype=torch.bool, device=text.device)
    scores = text @ image.T
    gap = (text.mean(dim=0) - image.mean(dim=0)).norm()
    return {
        **_recalls("t2v", scores, own, nobody),
        **_recalls("v2t", scores.T, own, nobody),
        "modality_gap": round(float(gap), 6),
    }


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
