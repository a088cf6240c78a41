"""Scores of items that came after training, among the items of the catalogue.

Nothing was learned about such an item's id, so its score comes from its content. What the score
means depends on what ranks, and every scorer says so in ``basis``:

``blend``
    The features of the blend as they are for an item nobody has watched: popularity and transitions
    0, ``cold`` 1, similarities from the encoders' vectors, ``sicsrec_content`` from the adapted
    ones. The models' scores by item id do not exist for it; in their place stands, per history, the
    mean over the items that were watched least in training. Comparable with the scores of
    recommendations.
``id_and_content``
    o · w c, the content part of the trained scoring rule. Comparable with recommendations.
``content``
    o · c / τ, for the known items too: the model ranks by item ids alone, so only a ranking by
    content holds known and new items. Not comparable with the scores of recommendations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sicsrec.data.ids import text_ids
from sicsrec.data.sequences import Histories
from sicsrec.data.vectors import unit_rows
from sicsrec.errors import DataError
from sicsrec.models.base import SequenceModel
from sicsrec.models.blend import Blend
from sicsrec.models.item_scoring import IdAndContentVectors
from sicsrec.models.sicsrec import SICSRec

Basis = Literal["blend", "id_and_content", "content"]


@dataclass(frozen=True)
class NewItemVectors:
    """The encoders' vectors of M items that are not in the catalogue.

    Ids that are whole numbers become strings, matrices float32.

    Raises:
        DataError: if there is no item; if an id is neither a string nor a whole number, or there
            twice; if a modality has a matrix or a mask alone; or if one of these has not one row
            per item, or a matrix a value that is not finite.
    """

    item_ids: tuple[str, ...]
    matrices: Mapping[str, NDArray[np.float32]]
    """Modality to [M, D_m]; rows of items without the modality are 0. Vectors of one's own must be
    scaled as those of training were: to unit length, but where ``encode_items.normalise`` was
    false."""
    present: Mapping[str, NDArray[np.bool_]]
    """Modality to [M]."""

    def __post_init__(self) -> None:
        """Turn ids into strings and matrices into float32, and check that they fit together."""
        ids = ids_of_new_items(self.item_ids)
        if set(self.matrices) != set(self.present):
            raise DataError(
                "new items need a matrix and what is present of the same modalities, got "
                f"matrices of {sorted(self.matrices)} and present of {sorted(self.present)}"
            )
        matrices = {name: np.asarray(m, dtype=np.float32) for name, m in self.matrices.items()}
        present = {name: np.asarray(mask, dtype=np.bool_) for name, mask in self.present.items()}
        for name, matrix in matrices.items():
            if matrix.ndim != 2 or len(matrix) != len(ids) or present[name].shape != (len(ids),):
                raise DataError(
                    f"{len(ids)} new items need {name} vectors of the shape ({len(ids)}, width) "
                    f"and as many marks of what is present, got {matrix.shape} and "
                    f"{present[name].shape}"
                )
            if not np.isfinite(matrix).all():
                raise DataError(f"{name} vectors of new items hold values that are not finite")
        object.__setattr__(self, "item_ids", ids)
        object.__setattr__(self, "matrices", matrices)
        object.__setattr__(self, "present", present)

    def __len__(self) -> int:
        """Return M."""
        return len(self.item_ids)


def ids_of_new_items(given: object) -> tuple[str, ...]:
    """Return ids of new items as strings.

    Raises:
        DataError: if there is none, or one twice; or see :func:`sicsrec.data.ids.text_ids`.
    """
    ids = tuple(text_ids(given, "new items"))
    if not ids or len(set(ids)) != len(ids):
        raise DataError(f"new items need a list of different ids, got {given!r}")
    return ids


def content_of_new_items(
    model: SequenceModel, new: NewItemVectors
) -> tuple[SICSRec, Float[Tensor, "new width"]]:
    """Return the model as one with content, and c of every new item.

    Raises:
        DataError: if the model has no content side, an item has nothing the model reads, or a
            vector is of another width than the model's.
    """
    if not isinstance(model, SICSRec):
        raise DataError(f"a model of kind {model.kind!r} has no content side to place new items by")
    vectors = {}
    has_any = np.zeros(len(new), dtype=np.bool_)
    for modality, width in model.vector_widths.items():
        matrix = new.matrices.get(modality, np.zeros((len(new), width), dtype=np.float32))
        present = new.present.get(modality, np.zeros(len(new), dtype=np.bool_))
        if matrix.shape[1] != width:
            raise DataError(
                f"{modality} vectors of new items are {matrix.shape[1]} wide, the model was "
                f"trained on {width}"
            )
        has_any |= present
        vectors[modality] = (
            torch.from_numpy(matrix).to(model.device),
            torch.from_numpy(present).to(model.device),
        )
    if not has_any.all():
        lacking = [item for item, found in zip(new.item_ids, has_any, strict=True) if not found]
        raise DataError(
            f"new items {lacking[:3]} have none of what the model reads: "
            f"{', '.join(model.vector_widths)}"
        )
    with torch.no_grad():
        return model, model.content_embedding.of_vectors(vectors)


class ContentScorer:
    """Scores catalogue and new items by content.

    Args:
        model: a SICSRec.
        new: the new items; their columns follow those of the catalogue.

    Raises:
        DataError: see :func:`content_of_new_items`.
    """

    def __init__(self, model: SequenceModel, new: NewItemVectors) -> None:
        self._model, content = content_of_new_items(model, new)
        rule = self._model.item_scoring
        self.basis: Basis
        with torch.no_grad():
            if isinstance(rule, IdAndContentVectors):
                self.basis, self._temperature = "id_and_content", 1.0
                known, own = self._model.item_vectors(), rule.weight * content
            else:
                self.basis, self._temperature = "content", self._model.temperature
                known, own = self._model.content_vectors(), content
            self._vectors = torch.cat([known, own])
        self.name = self.basis

    @torch.no_grad()
    def score(self, histories: Histories) -> Float[Tensor, "users items"]:
        """Return [U, N + M]."""
        return self._model.user_vectors(histories) / self._temperature @ self._vectors.T


class BlendWithNewItems:
    """Scores catalogue and new items by a blend.

    Args:
        blend: weighs a SICSRec, among others.
        new: the new items; their columns follow those of the catalogue.

    Raises:
        DataError: see :func:`content_of_new_items`.
    """

    basis: Basis = "blend"
    name = "blend"

    def __init__(self, blend: Blend, new: NewItemVectors) -> None:
        self._blend = blend
        with_content = [model for model in blend.models if isinstance(model, SICSRec)]
        self._model, self._content = content_of_new_items(
            with_content[0] if with_content else blend.models[0], new
        )
        self._candidates = {}
        for modality, matrix in blend.facts.vectors.items():
            found = new.matrices.get(
                modality, np.zeros((len(new), matrix.shape[1]), dtype=np.float32)
            )
            unit = torch.from_numpy(unit_rows(found)).to(blend.device)
            self._candidates[modality] = blend.as_candidates(modality, unit)
        is_least = torch.from_numpy(blend.facts.counts == blend.facts.counts.min())
        self._mean_of_least = (is_least / is_least.sum()).to(blend.device)
        self._by_id = {"id_encoder", "sicsrec_raw", "sicsrec_normalised"}

    @torch.no_grad()
    def score(self, histories: Histories) -> Float[Tensor, "users items"]:
        """Return [U, N + M]; the first N columns are those of the blend itself."""
        blend = self._blend
        n_items = blend.n_items
        scores = torch.zeros(len(histories), n_items + len(self._content), device=blend.device)
        for part, sums in blend.in_parts(histories, scores):
            known, new = sums[:, :n_items], sums[:, n_items:]
            of_new = self._features(part)
            for name, feature in blend.features(part):
                if weight := blend.weights.get(name, 0.0):
                    known.add_(feature, alpha=weight)
                    if name in self._by_id:
                        new.add_((feature @ self._mean_of_least)[:, None], alpha=weight)
                    elif name in of_new:
                        new.add_(of_new[name], alpha=weight)
        return scores

    def _features(self, histories: Histories) -> dict[str, Float[Tensor, "users new"]]:
        """Return the features that are not 0 and not those of the models by id."""
        user = self._model.user_vectors(histories)
        features = {
            "sicsrec_content": user @ self._content.T / self._model.temperature,
            "cold": torch.ones(len(histories), len(self._content), device=self._blend.device),
        }
        for modality, candidates in self._candidates.items():
            last, history = self._blend.similarities(histories, modality, candidates)
            features |= {
                f"last_{modality}": last,
                f"history_{modality}": history,
                f"cold_{modality}": last,
            }
        return features
