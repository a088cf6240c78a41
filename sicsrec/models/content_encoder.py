"""Rivals that know items by their content alone: a content encoder, and one on frozen features."""

from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, nn

from sicsrec.models.base import PositionOrder, SequenceModel, TokenBatch
from sicsrec.models.content import ContentAdapter, ContentEmbedding
from sicsrec.models.layers import Transformer, causal_mask, initialise


class ContentEncoder(SequenceModel):
    """SICSRec's content tower by itself: no item has an embedding of its own.

    ``H = Transformer(c_i + p_t)``, score of item i after token t: ``h_t · c_i``, with SICSRec's
    content embedding c; trained by the cross entropy over all items. The tables behind c start at
    the encoders' vectors and are trained on, as in SICSRec.

    Args:
        n_items: N.
        width: D.
        inner_width: of the feed-forward blocks.
        n_layers: layers.
        n_heads: attention heads of each layer.
        dropout: of input, attention weights and blocks.
        max_history_length: number of positions.
        vector_widths: modality to the width of its vectors; at least one modality.
        positions: see :class:`~sicsrec.models.id_encoder.IdEncoder`.
    """

    kind = "content_encoder"

    def __init__(
        self,
        *,
        n_items: int,
        width: int,
        inner_width: int,
        n_layers: int,
        n_heads: int,
        dropout: float,
        max_history_length: int,
        vector_widths: dict[str, int],
        positions: PositionOrder = "from_start",
    ) -> None:
        super().__init__()
        self.n_items = n_items
        self.max_history_length = max_history_length
        self.inner_width = inner_width
        self.n_heads = n_heads
        self.dropout = dropout
        self.vector_widths = dict(vector_widths)
        self.positions = positions
        self.content_embedding = ContentEmbedding(
            n_items=n_items, vector_widths=self.vector_widths, width=width
        )
        self.position_embedding = nn.Embedding(max_history_length, width)
        self.transformer = Transformer(
            width=width,
            inner_width=inner_width,
            n_layers=n_layers,
            n_heads=n_heads,
            dropout=dropout,
        )
        for module in (self.position_embedding, self.transformer):
            module.apply(initialise)

    def settings(self) -> dict[str, Any]:
        """See :meth:`SequenceModel.settings`."""
        return {
            "n_items": self.n_items,
            "width": self.position_embedding.embedding_dim,
            "inner_width": self.inner_width,
            "n_layers": len(self.transformer.layers),
            "n_heads": self.n_heads,
            "dropout": self.dropout,
            "max_history_length": self.max_history_length,
            "vector_widths": self.vector_widths,
            "positions": self.positions,
        }

    def encode(self, batch: TokenBatch) -> Float[Tensor, "rows length width"]:
        """Return the hidden states H of all tokens."""
        positions = self.position_embedding(batch.positions_in(self.positions))
        embedded = self.content_embedding.of_each(batch.items) + positions
        return self.transformer(embedded, causal_mask(batch.segments))

    def item_vectors(self) -> Float[Tensor, "items width"]:
        """Return c of every item."""
        return self.content_embedding.of_all()

    def loss(self, batch: TokenBatch) -> dict[str, Float[Tensor, ""]]:
        """See :meth:`SequenceModel.next_item_loss`."""
        return self.next_item_loss(batch, self.item_vectors, self.content_embedding)


class FrozenFeatures(ContentEncoder):
    """SASRec with frozen features in place of item embeddings.

    The tables stay the encoders' vectors; adapters, positions and Transformer are trained. So two
    items with equal vectors are equal to it, and an unwatched item is scored like a watched one.
    """

    kind = "frozen_features"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for adapter in self.content_embedding.adapters.values():
            cast(ContentAdapter, adapter).table.requires_grad_(requires_grad=False)
