"""Step 1: the ID-modality sequence encoder alone (arXiv 2510.10556, two-step training)."""

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sicsrec.data.sequences import Histories
from sicsrec.models.base import PositionOrder, SequenceModel, TokenBatch
from sicsrec.models.layers import INITIAL_STD, Transformer, causal_mask, initialise
from sicsrec.models.tables import ItemTable, one_gradient

ItemStart = Literal["random", "content"]
"""What item embeddings are before training."""


class IdEncoder(SequenceModel):
    """A causal Transformer over item embeddings.

    ``H = Transformer(e_i + p_t)``, score of item i after token t: ``h_t · e_i``; trained by the
    cross entropy over all items.

    Args:
        n_items: N; the embedding table has one more row, for padding, which nothing reads.
        width: D.
        inner_width: of the feed-forward blocks.
        n_layers: layers.
        n_heads: attention heads of each layer.
        dropout: of input, attention weights and blocks.
        max_history_length: number of positions.
        positions: ``from_start``: p_0 is that of the oldest item; ``from_end``: of the most recent
            one of the sequence, as when batches are padded on the left.
        item_start: ``content``: whoever makes the model calls :meth:`start_items_at` before it is
            trained, and items with content that training never meets keep those embeddings.

    Initial values: linear layers and embeddings N(0, 0.02), biases 0, LayerNorms identity, the
    padding row 0.
    """

    kind = "id_encoder"

    has_content: Bool[Tensor, " items_and_padding"]
    """Which items started at content; where ``item_start`` is ``content``."""

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
        positions: PositionOrder = "from_start",
        item_start: ItemStart = "random",
    ) -> None:
        super().__init__()
        self.n_items = n_items
        self.max_history_length = max_history_length
        self.inner_width = inner_width
        self.n_heads = n_heads
        self.dropout = dropout
        self.positions = positions
        self.item_start = item_start
        self.item_embedding = ItemTable(n_items, width)
        self.position_embedding = nn.Embedding(max_history_length, width)
        self.transformer = Transformer(
            width=width,
            inner_width=inner_width,
            n_layers=n_layers,
            n_heads=n_heads,
            dropout=dropout,
        )
        self.apply(initialise)
        with torch.no_grad():
            self.item_embedding.weight[0].zero_()
        if item_start == "content":
            self.register_buffer("has_content", torch.zeros(n_items + 1, dtype=torch.bool))

    def settings(self) -> dict[str, Any]:
        """See :meth:`SequenceModel.settings`."""
        return {
            "n_items": self.n_items,
            "width": self.item_embedding.embedding_dim,
            "inner_width": self.inner_width,
            "n_layers": len(self.transformer.layers),
            "n_heads": self.n_heads,
            "dropout": self.dropout,
            "max_history_length": self.max_history_length,
            "positions": self.positions,
            # Left out where it is random, so that descriptions of such models stay as they were.
            **({} if self.item_start == "random" else {"item_start": self.item_start}),
        }

    @torch.no_grad()
    def spread_items(self, std: float) -> None:
        """Give the random item embeddings another standard deviation before training."""
        self.item_embedding.weight.mul_(std / INITIAL_STD)

    @torch.no_grad()
    def start_items_at(
        self, embeddings: Float[Tensor, "items width"], has_content: Bool[Tensor, " items"]
    ) -> None:
        """Replace the random item embeddings before training; that of padding stays 0.

        Args:
            embeddings: row r belongs to item index r + 1.
            has_content: which of them say what the item is.
        """
        self.item_embedding.weight[1:] = embeddings
        self.has_content[1:] = has_content

    def unread_rows(self, train: Histories) -> list[tuple[Tensor, Bool[Tensor, " rows"]]]:
        """See :meth:`SequenceModel.unread_rows`: where content is what items start at.

        All that the softmax teaches of an item that nobody watched is that nobody did. Of one
        without content nothing else is known.
        """
        if self.item_start == "random":
            return []
        met = train.take((train.lengths > 1).nonzero()[0])
        unmet = self.item_embedding.rows_without(met.items)
        return [(self.item_embedding.weight, unmet & self.has_content)]

    def position_vectors(self, batch: TokenBatch) -> Float[Tensor, "rows length width"]:
        """Return p of every token."""
        return self.position_embedding(batch.positions_in(self.positions))

    def encode(self, batch: TokenBatch) -> Float[Tensor, "rows length width"]:
        """Return the hidden states H of all tokens."""
        embedded = self.item_embedding(batch.items) + self.position_vectors(batch)
        return self.transformer(embedded, causal_mask(batch.segments))

    def item_vectors(self) -> Float[Tensor, "items width"]:
        """Return the item embeddings without the padding row."""
        return self.item_embedding.weight[1:]

    def loss(self, batch: TokenBatch) -> dict[str, Float[Tensor, ""]]:
        """See :meth:`SequenceModel.next_item_loss`."""
        table = self.item_embedding
        with one_gradient([table]):
            return self.next_item_loss(batch, table.all_rows, table, n_padding=1)
