"""Where dropout acts in training. At a rate of 1 nothing that it acts on is left."""

import math

import pytest
import torch

from sicsrec.models.candidates import CandidateSampler
from sicsrec.models.gru4rec import Gru4Rec
from sicsrec.models.id_encoder import IdEncoder
from sicsrec.models.layers import Attention, Transformer, TransformerLayer, norm2
from sicsrec.models.sicsrec import SICSRec
from tests.parity.test_stage_two import (
    MAX_LENGTH,
    N_ITEMS,
    SEQUENCES,
    TOWER,
    WIDTH,
    packed_tokens,
    randomise,
)

X = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0))
MASK = torch.ones(3, 3, dtype=torch.bool).tril().expand(2, 1, 3, 3)
SHAPE = {"width": WIDTH, "inner_width": 12, "n_heads": 2}


def made(module: torch.nn.Module) -> torch.nn.Module:
    randomise(module)
    return module.train()


@torch.no_grad()
def test_attention_drops_its_weights():
    attention = made(Attention(width=WIDTH, n_heads=2, dropout=1.0))
    torch.testing.assert_close(attention(X, X, MASK), attention.output.bias.expand_as(X))
    assert not torch.allclose(attention.eval()(X, X, MASK), attention.output.bias.expand_as(X))


@torch.no_grad()
def test_a_layer_drops_the_outputs_of_both_its_blocks():
    layer = made(TransformerLayer(**SHAPE, dropout=1.0))
    norms_alone = layer.feed_forward_norm(layer.attention_norm(X))
    torch.testing.assert_close(layer(X, X, MASK), norms_alone)
    assert not torch.allclose(layer.eval()(X, X, MASK), norms_alone)


@torch.no_grad()
def test_a_transformer_drops_its_input():
    transformer = made(Transformer(**SHAPE, n_layers=0, dropout=1.0))
    assert not transformer(X, MASK).any()
    assert transformer.eval()(X, MASK).all()


@torch.no_grad()
def test_a_gru_drops_its_embeddings():
    settings = {"n_items": N_ITEMS, "width": WIDTH, "n_layers": 1, "dropout": 1.0}
    model = made(Gru4Rec(**settings, max_history_length=MAX_LENGTH))
    (one, _), (other, _) = (packed_tokens([s], with_targets=False) for s in ([1, 2], [4, 3]))
    torch.testing.assert_close(model.encode(one), model.encode(other))
    model.eval()
    assert not torch.allclose(model.encode(one), model.encode(other))


def make_sicsrec(**changes: float) -> SICSRec:
    settings = {
        "fusion_dropout": 0.0,
        "adapter_rank": 2,
        "alpha": 0.3,
        "temperature": 0.1,
        "table_penalty": 0.02,
        "item_dropout": 0.0,
        "scoring": "normalised",
    }
    model = SICSRec(**TOWER | {"vector_widths": {"text": 6}} | settings | changes)
    made(model)
    present = torch.ones(N_ITEMS, dtype=torch.bool)
    model.content_embedding.load_vectors("text", torch.randn(N_ITEMS, 6), present)
    return model


@torch.no_grad()
def test_the_joined_towers_are_dropped_before_they_are_fused():
    model, (batch, _) = (
        make_sicsrec(fusion_dropout=1.0),
        packed_tokens(SEQUENCES, with_targets=False),
    )
    bias = norm2(model.fusion.bias)
    states = model.encode(batch)
    torch.testing.assert_close(states, bias.expand_as(states))
    assert not torch.allclose(model.eval().encode(batch), bias.expand_as(states))


@torch.no_grad()
@pytest.mark.parametrize("n_sampled", [None, N_ITEMS])
def test_item_vectors_are_dropped_in_the_loss_over_items_alone(n_sampled):
    model, (batch, _) = make_sicsrec(item_dropout=1.0), packed_tokens(SEQUENCES, with_targets=True)
    if n_sampled:
        model.candidates = CandidateSampler(n_sampled, torch.ones(N_ITEMS, dtype=torch.long))
    losses = model.loss(batch)
    assert float(losses["loss_rec"]) == pytest.approx(math.log(N_ITEMS), rel=1e-5)
    assert model.encode(batch).any()
    assert float(model.eval().loss(batch)["loss_rec"]) != pytest.approx(math.log(N_ITEMS), rel=1e-3)


def test_an_id_encoder_hands_its_rate_to_its_transformer():
    model = IdEncoder(**TOWER | {"dropout": 0.3})
    rates = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    rates |= {m.dropout for m in model.modules() if isinstance(m, Attention)}
    assert rates == {0.3}
