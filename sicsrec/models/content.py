"""Content embeddings of items: adapted text and image vectors, fused (arXiv 2510.10556)."""

from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sicsrec.models.layers import INITIAL_STD, initialise, norm2
from sicsrec.models.tables import ItemTable


class ContentAdapter(nn.Module):
    """One modality's table and adapter: Linear(D_m → D_m / 2), ReLU, Linear(→ D).

    The table starts at the encoders' vectors and is trained on. An item without the modality gets a
    learned placeholder instead of the image of a zero vector. It starts at 0: what the item has
    then decides its content until training says otherwise, where drawn numbers would be ten times
    as long as the adapted vectors they are added to.

    Args:
        n_items: N.
        vector_width: D_m, of the encoders' vectors.
        width: D.
    """

    present: Bool[Tensor, " items_and_padding"]

    def __init__(self, *, n_items: int, vector_width: int, width: int) -> None:
        super().__init__()
        self.table = ItemTable(n_items, vector_width)
        self.inner = nn.Linear(vector_width, max(1, vector_width // 2))
        self.outer = nn.Linear(self.inner.out_features, width)
        # Drawn all the same: what is drawn after it, and so all figures of data that lack nothing,
        # stay as they were.
        self.placeholder = nn.Parameter(torch.empty(width).normal_(std=INITIAL_STD).zero_())
        self.register_buffer("present", torch.ones(n_items + 1, dtype=torch.bool))
        self.apply(initialise)

    @torch.no_grad()
    def load_vectors(
        self, matrix: Float[Tensor, "items vector_width"], present: Bool[Tensor, " items"]
    ) -> None:
        """Fill the table with the encoders' vectors; rows not ``present`` are never read."""
        self.table.weight[0].zero_()
        self.table.weight[1:] = matrix
        self.present[0] = False
        self.present[1:] = present
        # Where every item has the modality only items that come after training read it: as 0.
        self.placeholder.requires_grad_(not bool(present.all()))

    def forward(self, items: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch width"]:
        """Return a_m(E_m[i]) for item indices, the placeholder where i lacks the modality."""
        return self.adapt(self.table(items), self.present[items])

    def adapt(
        self,
        vectors: Float[Tensor, "*batch vector_width"],
        present: Bool[Tensor, "*batch"],
    ) -> Float[Tensor, "*batch width"]:
        """Return a_m of any vectors, the placeholder where they are not ``present``."""
        adapted = self.outer(F.relu(self.inner(vectors)))
        return torch.where(present.unsqueeze(-1), adapted, self.placeholder)


class ContentEmbedding(nn.Module):
    """The content embedding ``c_i = norm2( Σ_m a_m(E_m[i]) )`` over the modalities at hand.

    Args:
        n_items: N.
        vector_widths: modality to D_m, e.g. ``{"text": 384, "image": 64}``.
        width: D.
    """

    def __init__(self, *, n_items: int, vector_widths: dict[str, int], width: int) -> None:
        super().__init__()
        self.n_items = n_items
        self.adapters = nn.ModuleDict(
            {
                modality: ContentAdapter(n_items=n_items, vector_width=vector_width, width=width)
                for modality, vector_width in vector_widths.items()
            }
        )

    def load_vectors(
        self,
        modality: str,
        matrix: Float[Tensor, "items vector_width"],
        present: Bool[Tensor, " items"],
    ) -> None:
        """Fill one modality's table; see :meth:`ContentAdapter.load_vectors`."""
        cast(ContentAdapter, self.adapters[modality]).load_vectors(matrix, present)

    def forward(self, items: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch width"]:
        """Return c for item indices, of unit length."""
        return norm2(torch.stack([a(items) for a in self.adapters.values()]).sum(0))

    def of_vectors(
        self, vectors: Mapping[str, tuple[Float[Tensor, "items _"], Bool[Tensor, " items"]]]
    ) -> Float[Tensor, "items width"]:
        """Return c of items that are not in the tables, e.g. of videos that came after training.

        Args:
            vectors: modality to the encoder's vectors and whether each item has one; all
                modalities of the model.
        """
        adapted = [
            cast(ContentAdapter, adapter).adapt(*vectors[modality])
            for modality, adapter in self.adapters.items()
        ]
        return norm2(torch.stack(adapted).sum(0))

    def of_each(self, items: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch width"]:
        """Return c for item indices of which many are the same, adapting each distinct one once.

        A GPU adapts them all: to find the distinct ones it would have to be waited for.
        """
        if items.is_cuda:
            every: Float[Tensor, "*batch width"] = self(items)
            return every
        distinct, where = torch.unique(items, return_inverse=True)
        vectors: Float[Tensor, "*batch width"] = self(distinct)[where]
        return vectors

    def of_all(self) -> Float[Tensor, "items width"]:
        """Return c of every item; row r is item index r + 1."""
        device = self.tables()[0].weight.device
        vectors: Float[Tensor, "items width"] = self(
            torch.arange(1, self.n_items + 1, device=device)
        )
        return vectors

    def has_any(self) -> Bool[Tensor, " items"]:
        """Return whether an item has any of the modalities; row r is item index r + 1."""
        present = [cast(ContentAdapter, adapter).present for adapter in self.adapters.values()]
        return torch.stack(present)[:, 1:].any(dim=0)

    def tables(self) -> list[ItemTable]:
        """Return the modalities' tables."""
        return [cast(ContentAdapter, adapter).table for adapter in self.adapters.values()]
