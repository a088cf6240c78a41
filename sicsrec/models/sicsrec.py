"""Step 2: SICSRec, ID and content modalities aligned and mixed (arXiv 2510.10556)."""

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sicsrec.data.sequences import Histories
from sicsrec.models.base import PositionOrder, SequenceModel, TokenBatch, scored_tokens
from sicsrec.models.candidates import sampled_cross_entropy
from sicsrec.models.content import ContentEmbedding
from sicsrec.models.id_encoder import IdEncoder, ItemStart
from sicsrec.models.item_scoring import IdAndContentVectors, IdVectors
from sicsrec.models.layers import (
    LAYER_NORM_EPS,
    Transformer,
    TransformerLayer,
    causal_mask,
    initialise,
    norm2,
)
from sicsrec.models.losses import content_contrast, next_item_cross_entropy
from sicsrec.models.tables import ItemTable, one_gradient

TOWERS = {"id": "ID encoder", "content": "content encoder", "mix": "mix decoder"}
"""Inputs of the fusion W [H_id; H_c; H_mix] in their order, and their names for people."""


class MixDecoder(nn.Module):
    """The mix-modality sequence decoder: chained cross-attention layers, ID reading content.

    Layer l's query is the output of layer l - 1, the first one's LN(H_id); key and value of every
    layer are LN(H_c); the mask is causal.

    Args:
        width: D.
        inner_width: of the feed-forward blocks.
        n_layers: layers.
        n_heads: attention heads of each layer.
        dropout: of attention weights and blocks.
    """

    def __init__(
        self, *, width: int, inner_width: int, n_layers: int, n_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.key_value_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.layers = nn.ModuleList(
            TransformerLayer(width=width, inner_width=inner_width, n_heads=n_heads, dropout=dropout)
            for _ in range(n_layers)
        )

    def forward(
        self,
        id_states: Float[Tensor, "rows length width"],
        content_states: Float[Tensor, "rows length width"],
        mask: Bool[Tensor, "rows 1 length length"],
    ) -> Float[Tensor, "rows length width"]:
        """Return H_mix."""
        x = self.query_norm(id_states)
        key_value = self.key_value_norm(content_states)
        for layer in self.layers:
            x = layer(x, key_value, mask)
        return x


class SICSRec(SequenceModel):
    """ID encoder, content encoder and mix decoder over one history.

    Args:
        n_items: N.
        width: D of all towers.
        inner_width: of the feed-forward blocks.
        n_layers: layers of each tower.
        n_heads: attention heads of each layer.
        dropout: of input, attention weights and blocks.
        max_history_length: number of positions.
        vector_widths: modality to the width of its vectors; at least one modality.
        fusion_dropout: of [H_id; H_c; H_mix] before W.
        adapter_rank: rank of the low-rank adapters in the frozen ID encoder; 0 for none.
        alpha: weight of L_con; with 0 it is not computed.
        temperature: τ of L_rec and L_con.
        table_penalty: λ, weight of the tables' norms.
        item_dropout: dropout of the item vectors in L_rec.
        scoring: what o is compared with in L_rec and in ranking: ``normalised``: norm2(e_i);
            ``raw``: e_i.
        two_step: whether the ID encoder is frozen; otherwise all is trained from the start, and
            there are no adapters.
        item_scoring: ``id``: v_i is that alone; ``id_and_content``: v_i = norm2(e_i) + w · c_i,
            whatever ``scoring`` says.
        content_weight: the value w starts at.
        positions: see :class:`~sicsrec.models.id_encoder.IdEncoder`.
        item_start: of the ID encoder that will be loaded.

    Note:
        The positions are those of step 1 and are shared by the towers. "Frozen" means that the
        ID encoder's Transformer and the positions neither get gradients nor drop anything out.
    """

    kind = "sicsrec"

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
        fusion_dropout: float,
        adapter_rank: int,
        alpha: float,
        temperature: float,
        table_penalty: float,
        item_dropout: float,
        scoring: Literal["raw", "normalised"],
        two_step: bool = True,
        item_scoring: Literal["id", "id_and_content"] = "id",
        content_weight: float = 0.3,
        positions: PositionOrder = "from_start",
        item_start: ItemStart = "random",
    ) -> None:
        super().__init__()
        self.n_items = n_items
        self.max_history_length = max_history_length
        self.vector_widths = dict(vector_widths)
        self.adapter_rank = adapter_rank
        self.alpha = alpha
        self.temperature = temperature
        self.table_penalty = table_penalty
        self.item_dropout = item_dropout
        self.scoring = scoring
        self.two_step = two_step
        self.content_weight = content_weight
        tower = {
            "width": width,
            "inner_width": inner_width,
            "n_layers": n_layers,
            "n_heads": n_heads,
        }
        self.id_encoder = IdEncoder(
            n_items=n_items,
            dropout=dropout,
            max_history_length=max_history_length,
            positions=positions,
            item_start=item_start,
            **tower,
        )
        self.content_embedding = ContentEmbedding(
            n_items=n_items, vector_widths=self.vector_widths, width=width
        )
        self.content_encoder = Transformer(dropout=dropout, **tower)
        self.mix_decoder = MixDecoder(dropout=dropout, **tower)
        self.fusion_dropout = nn.Dropout(fusion_dropout)
        self.fusion = nn.Linear(3 * width, width)
        for module in (self.content_encoder, self.mix_decoder, self.fusion):
            module.apply(initialise)
        self.item_scoring: IdVectors | IdAndContentVectors = (
            IdVectors(normalised=scoring == "normalised")
            if item_scoring == "id"
            else IdAndContentVectors(content_weight)
        )
        if two_step:
            self._freeze()

    def _freeze(self) -> None:
        """Leave only the adapters of the ID encoder's Transformer trainable."""
        if self.adapter_rank:
            self.id_encoder.transformer.add_adapters(self.adapter_rank)
        self.id_encoder.position_embedding.requires_grad_(requires_grad=False)
        for name, parameter in self.id_encoder.transformer.named_parameters():
            parameter.requires_grad_("_adapter." in name)

    def train(self, mode: bool = True) -> "SICSRec":
        """Switch dropout; a frozen ID encoder's stays off."""
        super().train(mode)
        if self.two_step:
            self.id_encoder.eval()
        return self

    def load_id_encoder(self, pretrained: IdEncoder) -> None:
        """Take over all weights of step 1; adapters keep their start at the identity.

        Raises:
            RuntimeError: if a weight is missing, left over or of another shape.
        """
        weights = pretrained.state_dict()
        own_adapters = {
            name: value
            for name, value in self.id_encoder.state_dict().items()
            if "_adapter." in name
        }
        self.id_encoder.load_state_dict(weights | own_adapters, strict=True)

    def settings(self) -> dict[str, Any]:
        """See :meth:`SequenceModel.settings`."""
        return self.id_encoder.settings() | {
            "vector_widths": self.vector_widths,
            "fusion_dropout": self.fusion_dropout.p,
            "adapter_rank": self.adapter_rank,
            "alpha": self.alpha,
            "temperature": self.temperature,
            "table_penalty": self.table_penalty,
            "item_dropout": self.item_dropout,
            "scoring": self.scoring,
            "two_step": self.two_step,
            "item_scoring": self.item_scoring.name,
            "content_weight": self.content_weight,
        }

    def unread_rows(self, train: Histories) -> list[tuple[Tensor, Bool[Tensor, " rows"]]]:
        """See :meth:`SequenceModel.unread_rows`: rows of items that training never meets.

        Content is read of what was watched before a target and, for L_con, of the target. That
        ``item_scoring: id_and_content`` compares with all items teaches the others nothing but
        that nobody watched them, which is no reason for other content.
        """
        met = train.take((train.lengths > 1).nonzero()[0])
        items = met.items if self.alpha else np.delete(met.items, met.offsets[1:] - 1)
        return [
            *self.id_encoder.unread_rows(train),
            *(
                (table.weight, table.rows_without(items))
                for table in self.content_embedding.tables()
            ),
        ]

    def encode(self, batch: TokenBatch) -> Float[Tensor, "rows length width"]:
        """Return o_t = norm2(W [H_id; H_c; H_mix]) at every token."""
        return self.fuse(*self.tower_states(batch, self.content_embedding.of_each(batch.items)))

    def fuse(self, *states: Float[Tensor, "rows length width"]) -> Tensor:
        """Return o of what :meth:`tower_states` returned, [R, L, D]."""
        joined = torch.cat(states, dim=-1)
        return norm2(self.fusion(self.fusion_dropout(joined)))

    def tower_states(
        self, batch: TokenBatch, content: Float[Tensor, "rows length width"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return H_id, H_c and H_mix at every token, each [R, L, D].

        Args:
            batch: the tokens.
            content: c of every token's item.
        """
        mask = causal_mask(batch.segments)
        id_states = self.id_encoder.encode(batch)
        positions = self.id_encoder.position_vectors(batch)
        content_states = self.content_encoder(content + positions, mask)
        return id_states, content_states, self.mix_decoder(id_states, content_states, mask)

    def content_vectors(self) -> Float[Tensor, "items width"]:
        """Return c of every item, of unit length; row r is item index r + 1."""
        return self.content_embedding.of_all()

    def item_vectors(self) -> Float[Tensor, "items width"]:
        """Return v_i."""
        return self.item_scoring(self.id_encoder.item_vectors(), self.content_vectors)

    @torch.no_grad()
    def score_parts(self) -> dict[str, tuple[Float[Tensor, "items width"], float]]:
        """See :meth:`SequenceModel.score_parts`: o · e_i, o · norm2(e_i) / τ and o · c_i / τ."""
        table = self.id_encoder.item_vectors().detach()
        return {
            "sicsrec_raw": (table, 1.0),
            "sicsrec_normalised": (norm2(table), self.temperature),
            "sicsrec_content": (self.content_vectors(), self.temperature),
        }

    def own_weights(self) -> dict[str, float]:
        """See :meth:`SequenceModel.own_weights`."""
        if isinstance(self.item_scoring, IdAndContentVectors):
            weight = self.item_scoring.weight.item()
            return {"sicsrec_normalised": 1.0, "sicsrec_content": weight}
        return {f"sicsrec_{self.scoring}": 1.0}

    def loss(self, batch: TokenBatch) -> dict[str, Float[Tensor, ""]]:
        """Return L = L_rec + α L_con + λ Σ‖table‖₂ and its parts.

        L_rec is the cross entropy over all items of ``o_t · v_i / τ``, where v_i is made of
        ``dropout(e_i)``, L_con the content-aware contrastive task between o_t and the target's
        content embedding c.
        """
        with one_gradient(self._tables()):
            return self._loss(batch)

    def _tables(self) -> list[ItemTable]:
        """Return the tables that are punished: of items, and of every modality."""
        return [self.id_encoder.item_embedding, *self.content_embedding.tables()]

    def _loss(self, batch: TokenBatch) -> dict[str, Float[Tensor, ""]]:
        user, targets = scored_tokens(self.encode(batch), batch)
        share = self.peers.share(len(targets))
        all_targets = share.gather_numbers(targets)
        rec = share.weigh(self._loss_rec(user, targets, all_targets))
        loss, parts = rec, {"loss_rec": rec}
        if self.alpha:
            content = share.gather(self.content_embedding.of_each(targets))
            parts["loss_con"] = share.weigh(
                content_contrast(user, content, all_targets, self.temperature, share.first)
            )
            loss = loss + self.alpha * parts["loss_con"]
        norms = torch.stack([table.norm() for table in self._tables()]).sum()
        return {"loss": loss + self.table_penalty * norms, **parts, "table_norms": norms}

    def _loss_rec(
        self,
        user: Float[Tensor, "targets width"],
        targets: Int[Tensor, " targets"],
        all_targets: Int[Tensor, " all_targets"],
    ) -> Float[Tensor, ""]:
        """Return L_rec over all items, or over candidates that stand for them.

        ``all_targets`` are those of all processes, which are candidates.
        """
        table = self.id_encoder.item_embedding
        user = user / self.temperature
        if self.candidates is not None:
            items, log_inclusion = self.candidates.draw(all_targets, self.peers)
            vectors = self.item_scoring(
                self._drop_out(table(items)), lambda: self.content_embedding(items)
            )
            return sampled_cross_entropy(user, vectors, targets, items, log_inclusion)
        if isinstance(self.item_scoring, IdVectors):
            return next_item_cross_entropy(
                user, table.all_rows(), targets, n_padding=1, prepare=self._training_vectors
            )
        vectors = self._training_vectors(table.all_rows()[1:])
        return next_item_cross_entropy(user, vectors, targets)

    def _training_vectors(self, table: Float[Tensor, "items width"]) -> Tensor:
        """Return v of rows of the table, or of all of them where content counts, [items, D]."""
        return self.item_scoring(self._drop_out(table), self.content_vectors)

    def _drop_out(self, table: Float[Tensor, "items width"]) -> Tensor:
        return F.dropout(table, self.item_dropout, self.training)
