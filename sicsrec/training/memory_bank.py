"""Vectors of earlier batches, kept as further negatives (cross-batch memory, arXiv 1912.06798)."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor


class MemoryBank:
    """The most recent vector of the items seen last.

    An item is in it once: a new vector replaces the old one. Vectors older than ``max_age_steps``
    are dropped, then the oldest beyond ``size``.

    Args:
        size: most items kept; 0 keeps none.
        max_age_steps: most steps that a vector is kept.
        width: width of the vectors.
        device: where they are kept.
    """

    def __init__(self, size: int, max_age_steps: int, width: int, device: torch.device) -> None:
        self._size = size
        self._max_age = max_age_steps
        self._items = np.zeros(0, dtype=np.int64)
        self._steps = np.zeros(0, dtype=np.int64)
        self._vectors = torch.zeros(0, width, device=device)

    @property
    def items(self) -> NDArray[np.int64]:
        """[kept] item indices, oldest first."""
        return self._items

    @property
    def vectors(self) -> Float[Tensor, "kept width"]:
        """The vectors of :attr:`items`, without gradient."""
        return self._vectors

    def expire(self, step: int) -> None:
        """Drop what is too old in this step."""
        self._keep(np.flatnonzero(step - self._steps <= self._max_age))

    def add(
        self, items: NDArray[np.integer], vectors: Float[Tensor, "items width"], step: int
    ) -> None:
        """Append the vectors of some distinct items, made in this step."""
        if not self._size:
            return
        self._keep(np.flatnonzero(~np.isin(self._items, items)))
        self._items = np.concatenate([self._items, items.astype(np.int64)])
        self._steps = np.concatenate([self._steps, np.full(len(items), step, dtype=np.int64)])
        self._vectors = torch.cat([self._vectors, vectors.detach()])
        self._keep(np.arange(max(0, len(self._items) - self._size), len(self._items)))

    def _keep(self, rows: NDArray[np.intp]) -> None:
        if len(rows) < len(self._items):
            self._items, self._steps = self._items[rows], self._steps[rows]
            self._vectors = self._vectors[torch.from_numpy(rows).to(self._vectors.device)]

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything it holds."""
        return {
            "items": torch.from_numpy(self._items.copy()),
            "steps": torch.from_numpy(self._steps.copy()),
            "vectors": self._vectors.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what another bank of the same shape held."""
        self._items = state["items"].cpu().numpy()
        self._steps = state["steps"].cpu().numpy()
        self._vectors = state["vectors"].to(self._vectors.device)
