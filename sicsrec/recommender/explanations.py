"""Why an item was recommended: which part of the score came from where, and which history items
it is near.

The parts of a score add up to it. Of a blend they are its features, gathered by side: ID encoder,
SICSRec, content, transitions, popularity, watched. Of SICSRec alone they are the towers: with
o = norm2(W [H_id; H_c; H_mix] + b) and W = [W_id, W_c, W_mix], the score o · v is the sum of
W_m H_m · v over the towers m and of b · v, each divided by the same length.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from sicsrec.data.packing import history_windows, last_tokens, pack
from sicsrec.data.sequences import Histories
from sicsrec.errors import DataError
from sicsrec.models.base import SequenceModel, TokenBatch
from sicsrec.models.blend import Blend, side_of
from sicsrec.models.sicsrec import TOWERS, SICSRec
from sicsrec.recommender.model import Recommender

BIAS = "bias"
N_NEAREST = 3


@dataclass(frozen=True)
class Explanation:
    """One recommended item."""

    item_id: str
    score: float
    parts: dict[str, float]
    """Side or tower to its part of the score; they add up to it."""
    spoke: str
    """The part that lifts the item most above the mean of all items."""
    nearest: list[tuple[str, float]]
    """Items of the history that are nearest, with the cosine; nearest first."""


def explain(recommender: Recommender, history: list[str], item_ids: list[str]) -> list[Explanation]:
    """Explain the scores of some items after a history.

    Args:
        recommender: what scores.
        history: item ids in time order; unknown ones are left out.
        item_ids: known items.

    Raises:
        DataError: if no item of the history is known, or one of ``item_ids`` is not.
    """
    histories = recommender.histories({"user": history})
    if not len(histories.items):
        raise DataError(
            f"none of the {len(history)} items of the history is known to the model, "
            "so there is nothing to explain by; give a history with known items"
        )
    columns = recommender.indices_of(item_ids) - 1
    parts = _parts(recommender, histories)
    vectors = recommender.unit_vectors()
    has_vector = _has_vector(recommender.model)
    watched = np.unique(histories.items.astype(np.int64)) - 1
    ids = recommender.item_ids
    explanations = []
    for item_id, column in zip(item_ids, columns.tolist(), strict=True):
        others = torch.from_numpy(watched[watched != column])
        # What has no content is near nothing, nor is anything near it.
        others = others[has_vector[others] & has_vector[column]]
        similarities = vectors[others] @ vectors[column]
        order = similarities.argsort(descending=True)[:N_NEAREST].tolist()
        own = {name: float(values[column]) for name, values in parts.items()}
        # A part that is the same for all items, however large, speaks for none of them.
        lift = {name: own[name] - float(values.mean()) for name, values in parts.items()}
        explanations.append(
            Explanation(
                item_id,
                sum(own.values()),
                own,
                max(lift, key=lambda name: lift[name]),
                [(ids[int(others[row])], float(similarities[row])) for row in order],
            )
        )
    return explanations


def _has_vector(model: SequenceModel) -> torch.Tensor:
    """Return [N], whether an item has what the model's first kind of vectors is made of."""
    if isinstance(model, SICSRec):
        return model.content_embedding.has_any()
    return torch.ones(model.n_items, dtype=torch.bool)


@torch.no_grad()
def _parts(recommender: Recommender, histories: Histories) -> dict[str, torch.Tensor]:
    """Return [N] per part of the score of one history."""
    scorer = recommender.scorer
    if isinstance(scorer, Blend):
        sides: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros(scorer.n_items))
        for name, feature in scorer.features(histories):
            weight = scorer.weights.get(name, 0.0)
            sides[side_of(name)] += weight * feature[0].cpu()
        return dict(sides)
    if isinstance(recommender.model, SICSRec):
        return tower_parts(recommender.model, histories)
    model: SequenceModel = recommender.model
    return {"ID encoder": model.score(histories)[0].cpu()}


@torch.no_grad()
def tower_parts(model: SICSRec, histories: Histories) -> dict[str, torch.Tensor]:
    """Return what each tower and the bias add to the scores [N] of one history."""
    length = model.max_history_length
    windows = history_windows(histories, length)
    packed = pack(histories.items, windows, length, with_targets=False)
    tokens = TokenBatch.from_packed(packed, model.device)
    states = model.tower_states(tokens, model.content_embedding(tokens.items))
    place = int(last_tokens(windows, length)[0])
    last = [state.flatten(0, 1)[place] for state in states]
    width = last[0].shape[0]
    fused = [
        F.linear(state, model.fusion.weight[:, tower * width : (tower + 1) * width])
        for tower, state in enumerate(last)
    ]
    fused.append(model.fusion.bias)
    size = torch.stack(fused).sum(dim=0).norm()
    vectors = model.item_vectors()
    return {
        name: (vectors @ part / size).cpu()
        for name, part in zip((*TOWERS.values(), BIAS), fused, strict=True)
    }
