"""One modality while it is trained."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from sicsrec.encoders.adapters import LossAdapter
from sicsrec.encoders.base import ItemEncoder
from sicsrec.training.item_inputs import ItemInputs

SeedChunk = Callable[[int], None]
"""Seeds everything that encoding the chunk of this number draws."""


@dataclass
class Tower:
    """One modality in training."""

    encoder: ItemEncoder
    adapter: LossAdapter
    inputs: ItemInputs
    has_modality: NDArray[np.bool_]
    """[N + 1] by item index."""
    content_of: NDArray[np.int64]
    """[N + 1] by item index; equal numbers mark equal content."""
    items_at_a_time: int = 64

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        return next(self.encoder.parameters()).device

    def present(self, items: NDArray[np.integer]) -> Bool[Tensor, " items"]:
        """Return which of some items have the modality."""
        return torch.from_numpy(self.has_modality[items]).to(self.device)

    def twins(
        self, rows: NDArray[np.integer], columns: NDArray[np.integer]
    ) -> Bool[Tensor, "rows columns"]:
        """Return which items have the same content; an item has the same as itself."""
        is_same = self.content_of[rows][:, None] == self.content_of[columns]
        return torch.from_numpy(is_same).to(self.device)

    def chunks(self, items: NDArray[np.int32]) -> list[NDArray[np.intp]]:
        """Return rows of ``items`` that are encoded together; absent items are in none."""
        rows = np.flatnonzero(self.has_modality[items])
        if not len(rows):
            return []
        return [rows[part] for part in self.inputs.plan(items[rows], self.items_at_a_time)]

    def encode_chunk(self, items: NDArray[np.int32]) -> Float[Tensor, "items width"]:
        """Return adapter outputs of items that have the modality."""
        return self.adapter(self.inputs.encode(items))

    def encode(
        self, items: NDArray[np.int32], seed_chunk: SeedChunk
    ) -> Float[Tensor, "items width"]:
        """Return adapter outputs, chunk by chunk; rows of absent items are 0."""
        outputs = torch.zeros(len(items), self.adapter.outer.out_features, device=self.device)
        chunks = self.chunks(items)
        parts = []
        for number, rows in enumerate(chunks):
            seed_chunk(number)
            parts.append(self.encode_chunk(items[rows]))
        if not parts:
            return outputs
        order = torch.from_numpy(np.concatenate(chunks)).to(self.device)
        return outputs.index_copy(0, order, torch.cat(parts))
