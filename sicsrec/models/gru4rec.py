"""The rival GRU4Rec: a recurrent encoder over item embeddings (Hidasi et al., arXiv 1511.06939)."""

from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from sicsrec.models.base import SequenceModel, TokenBatch
from sicsrec.models.layers import initialise


class Gru4Rec(SequenceModel):
    """A stack of GRU layers over item embeddings.

    ``h_t = W GRU(e_1 ... e_t)``, score of item i after token t: ``h_t · e_i``; trained by the cross
    entropy over all items at all positions, where the paper samples negatives within a batch and
    has item vectors of the output apart from those of the input.

    Args:
        n_items: N; the embedding table has one more row, for padding, which nothing reads.
        width: D, of embeddings and hidden states.
        n_layers: GRU layers.
        dropout: of the embeddings and between the layers.
        max_history_length: most recent items that are read.

    Initial values: embeddings and W N(0, 0.02), the GRU's those of torch, U(-1/√D, 1/√D).
    """

    kind = "gru4rec"

    def __init__(
        self, *, n_items: int, width: int, n_layers: int, dropout: float, max_history_length: int
    ) -> None:
        super().__init__()
        self.n_items = n_items
        self.max_history_length = max_history_length
        self.item_embedding = nn.Embedding(n_items + 1, width, padding_idx=0)
        self.input_dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(nn.GRU(width, width, batch_first=True) for _ in range(n_layers))
        self.output = nn.Linear(width, width)
        self.apply(initialise)
        with torch.no_grad():
            self.item_embedding.weight[0].zero_()

    def settings(self) -> dict[str, Any]:
        """See :meth:`SequenceModel.settings`."""
        return {
            "n_items": self.n_items,
            "width": self.item_embedding.embedding_dim,
            "n_layers": len(self.layers),
            "dropout": self.input_dropout.p,
            "max_history_length": self.max_history_length,
        }

    def encode(self, batch: TokenBatch) -> Float[Tensor, "rows length width"]:
        """Return the hidden states of all tokens; every segment begins with an empty state.

        A GRU carries its state along a row, so the segments of the packed rows are laid out one per
        row first. What torch then reads is packed by time, so the layout costs no computation.
        """
        # A process that has no row left for it reads padding: one sequence keeps all in the graph.
        is_token = batch.segments > 0
        if not bool(is_token.any()):
            is_token = torch.ones_like(is_token)
        place = batch.positions[is_token]
        sequence = (place == 0).long().cumsum(0) - 1
        lengths = torch.bincount(sequence)
        embedded = self.input_dropout(self.item_embedding(batch.items[is_token]))
        apart = embedded.new_zeros(len(lengths), int(lengths.max()), embedded.shape[1])
        apart = apart.index_put((sequence, place), embedded)
        by_time: PackedSequence = pack_padded_sequence(
            apart, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(self._recur(by_time), batch_first=True)
        hidden = embedded.new_zeros(*batch.items.shape, embedded.shape[1])
        hidden[is_token] = self.output(states[sequence, place]).to(hidden.dtype)
        return hidden

    def _recur(self, by_time: PackedSequence) -> PackedSequence:
        """Return the states of the last layer.

        Layer by layer: the dropout that cuDNN puts between its own layers follows no seed of torch.
        """
        # Under autocast a GRU on a GPU computes in float16, whatever it is told, and gradients that
        # are too small for it become 0.
        exact = torch.autocast("cuda", enabled=False) if by_time.data.is_cuda else nullcontext()
        with exact:
            for number, layer in enumerate(self.layers):
                if number:
                    rate = self.input_dropout.p
                    dropped = F.dropout(by_time.data, rate, self.training)
                    by_time = by_time._replace(data=dropped)
                by_time, _ = layer(by_time)
        return by_time

    def item_vectors(self) -> Float[Tensor, "items width"]:
        """Return the item embeddings without the padding row."""
        return self.item_embedding.weight[1:]

    def loss(self, batch: TokenBatch) -> dict[str, Float[Tensor, ""]]:
        """See :meth:`SequenceModel.next_item_loss`."""
        table = self.item_embedding
        return self.next_item_loss(batch, lambda: table.weight, table, n_padding=1)
