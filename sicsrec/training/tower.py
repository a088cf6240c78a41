"""One modality while it is trained."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from sicsrec.encoders.adapters import LossAdapter
from sicsrec.encoders.base import ItemEncoder
from sicsrec.training.item_inputs import ItemInputs


@dataclass
class Tower:
    """One modality in training: encoder, adapter, and who has the modality."""

    encoder: ItemEncoder
    adapter: LossAdapter
    inputs: ItemInputs
    has_modality: NDArray[np.bool_]
    """[N + 1] by item index."""

    def encode_present(
        self, items: NDArray[np.int32]
    ) -> tuple[Float[Tensor, "items width"], Bool[Tensor, " items"]]:
        """Return adapter outputs [items, width] and who is present; absent rows are 0."""
        device = next(self.encoder.parameters()).device
        has_it = self.has_modality[items]
        present = torch.from_numpy(has_it).to(device)
        outputs = torch.zeros(len(items), self.adapter.outer.out_features, device=device)
        if has_it.any():
            vectors = self.adapter(self.inputs.encode(items[has_it]))
            outputs = outputs.masked_scatter(present[:, None], vectors)
        return outputs, present
