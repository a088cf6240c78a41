"""Which weights move in step 1 and in step 2, by name, and that no other does."""

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from sicsrec.data.packing import training_batches
from sicsrec.data.sequences import Histories
from sicsrec.models import sicsrec as module
from sicsrec.models.base import SequenceModel, TokenBatch
from sicsrec.models.id_encoder import IdEncoder
from sicsrec.models.layers import LowRankAdapter
from sicsrec.models.sicsrec import SICSRec
from sicsrec.models.storage import load_model, save_model

N_ITEMS = 12
TOWER = {
    "n_items": N_ITEMS,
    "width": 8,
    "inner_width": 8,
    "n_layers": 2,
    "n_heads": 2,
    "dropout": 0.2,
    "max_history_length": 5,
}


VARIANTS = {
    "the paper": {},
    "without L_con": {"alpha": 0.0},
    "in one step": {"two_step": False},
    "without adapters": {"adapter_rank": 0},
    "image only": {"vector_widths": {"image": 6}},
    "raw scoring": {"scoring": "raw"},
    "content-aware": {"item_scoring": "id_and_content"},
    "all at once": {
        "alpha": 0.0,
        "two_step": False,
        "item_scoring": "id_and_content",
        "vector_widths": {"text": 6, "image": 5},
    },
}
"""Changes to the settings of the model."""


def make_sicsrec(*, all_present: bool, **changes: Any) -> SICSRec:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "vector_widths": {"text": 6},
        "fusion_dropout": 0.1,
        "adapter_rank": 2,
        "alpha": 0.5,
        "temperature": 0.1,
        "table_penalty": 0.01,
        "item_dropout": 0.2,
        "scoring": "normalised",
    }
    model = SICSRec(**TOWER | settings | changes)
    present = torch.ones(N_ITEMS, dtype=torch.bool)
    present[3] = all_present
    for modality, width in model.vector_widths.items():
        model.content_embedding.load_vectors(modality, torch.randn(N_ITEMS, width), present)
    return model


def frozen_weights(model: SICSRec) -> set[str]:
    """Return the names of what the paper's second step leaves as it is."""
    return {
        name
        for name, _ in model.named_parameters()
        if (name.startswith("id_encoder.transformer.") and "_adapter." not in name)
        or name == "id_encoder.position_embedding.weight"
    }


def train_some(model: SequenceModel) -> set[str]:
    """Take a few optimiser steps and return the names of the weights that moved."""
    items = np.random.default_rng(0).integers(1, N_ITEMS + 1, size=60).astype(np.int32)
    users = pl.Series("user_id", [str(n) for n in range(10)])
    histories = Histories(users, np.arange(0, 61, 6), items)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=0.05)
    model.train()
    for epoch in range(3):
        rng = np.random.default_rng(epoch)
        for packed in training_batches(histories, model.max_history_length, 20, rng):
            optimiser.zero_grad()
            model.loss(TokenBatch.from_packed(packed, model.device))["loss"].backward()
            optimiser.step()
    after = model.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_in_step_one_every_weight_moves():
    torch.manual_seed(0)
    model = IdEncoder(**TOWER)
    assert train_some(model) == set(dict(model.named_parameters()))
    assert (model.item_embedding.weight[0] == 0).all(), "the padding row stays 0"


@pytest.mark.parametrize("all_present", [True, False])
def test_in_step_two_the_frozen_encoder_stays_and_all_the_rest_moves(all_present):
    model = make_sicsrec(all_present=all_present)
    frozen = frozen_weights(model)
    if all_present:
        frozen.add("content_embedding.adapters.text.placeholder")
    moved = train_some(model)
    assert moved == set(dict(model.named_parameters())) - frozen
    assert {name for name in moved if "adapter.lora" in name} == {
        f"id_encoder.transformer.layers.{layer}.{block}_adapter.{part}.weight"
        for layer in range(2)
        for block in ("attention", "feed_forward")
        for part in ("lora_a", "lora_b")
    }


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_in_every_variant_no_weight_is_dead_and_none_that_is_frozen_moves(changes):
    model = make_sicsrec(all_present=False, **changes)
    moved = train_some(model)
    frozen = set() if changes.get("two_step") is False else frozen_weights(model)
    assert moved == set(dict(model.named_parameters())) - frozen
    has_adapters = changes.get("two_step", True) and changes.get("adapter_rank", 2) > 0
    assert any("_adapter." in name for name in moved) == has_adapters
    assert ("item_scoring.weight" in moved) == ("item_scoring" in changes)


def test_without_the_contrastive_task_it_is_not_even_computed(monkeypatch):
    def never(*_: object) -> None:
        raise AssertionError("L_con was computed")

    model = make_sicsrec(all_present=True, alpha=0.0)
    monkeypatch.setattr(module, "content_contrast", never)
    train_some(model)


def test_trained_in_one_step_the_id_encoder_drops_out_like_the_rest():
    model = make_sicsrec(all_present=True, two_step=False)
    assert all(entry.training for entry in model.train().modules())
    assert not any(entry.training for entry in model.eval().modules())


def test_the_frozen_encoder_drops_nothing_out_while_the_rest_trains():
    model = make_sicsrec(all_present=True).train()
    assert model.content_encoder.training
    assert not any(module.training for module in model.id_encoder.modules())


def test_adapters_start_as_the_identity():
    adapter = LowRankAdapter(width=8, rank=2)
    x = torch.randn(3, 8)
    assert torch.equal(adapter(x), x)


def test_step_two_starts_with_the_hidden_states_of_step_one():
    torch.manual_seed(1)
    pretrained = IdEncoder(**TOWER).eval()
    model = make_sicsrec(all_present=True)
    model.load_id_encoder(pretrained)
    histories = Histories(pl.Series("user_id", ["a"]), np.array([0, 3]), np.array([1, 5, 2], "i4"))
    expected = pretrained.user_vectors(histories)
    assert torch.equal(model.id_encoder.user_vectors(histories), expected)


def test_weights_of_another_width_are_refused():
    with pytest.raises(RuntimeError, match="size mismatch"):
        make_sicsrec(all_present=True).load_id_encoder(IdEncoder(**(TOWER | {"width": 16})))


def test_weights_start_small_norms_at_the_identity_and_padding_at_zero():
    """The reference starts embeddings at N(0, 1), where positions drown the content."""
    big = TOWER | {"n_items": 2000, "width": 64, "inner_width": 64}
    model = SICSRec(
        **big,
        **{
            k: make_sicsrec(all_present=True).settings()[k]
            for k in (
                "vector_widths",
                "fusion_dropout",
                "adapter_rank",
                "alpha",
                "temperature",
                "table_penalty",
                "item_dropout",
                "scoring",
            )
        },
    )
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.LayerNorm):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()
        elif isinstance(layer, torch.nn.Linear) and not name.endswith("lora_b"):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.3), name
    assert model.id_encoder.item_embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert (model.id_encoder.item_embedding.weight[0] == 0).all()


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_a_saved_model_scores_the_same(tmp_path, changes):
    model = make_sicsrec(all_present=False, **changes)
    train_some(model)
    histories = Histories(pl.Series("user_id", ["a"]), np.array([0, 3]), np.array([1, 4, 2], "i4"))
    save_model(model.eval(), tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.settings() == model.settings()
    assert torch.equal(loaded.item_vectors(), model.item_vectors())
    assert torch.equal(loaded.score(histories), model.score(histories))


def test_an_item_whose_content_is_zero_gives_no_exploding_gradient():
    """With all ReLUs off the adapters give their bias, which starts at 0: norm2 divides by it."""
    model = make_sicsrec(all_present=True).eval()
    adapter = model.content_embedding.adapters["text"]
    with torch.no_grad():
        adapter.table.weight[4] = 0.0
    items = torch.tensor([4, 5])
    content = model.content_embedding(items)
    assert (content[0] == 0).all()
    content[:, 0].sum().backward()
    for parameter in adapter.parameters():
        assert parameter.grad is None or parameter.grad.abs().max() < 1e6


def test_content_aware_scoring_places_an_item_that_nobody_watched_by_its_content():
    """Items 1-5 go with each other, as do 6-10; 11 looks like the first, 12 like the second."""
    model = make_sicsrec(all_present=True, item_scoring="id_and_content", content_weight=1.0)
    look = torch.eye(2).repeat_interleave(3, dim=1)
    of_group = torch.tensor([0] * 5 + [1] * 5 + [0, 1])
    model.content_embedding.load_vectors("text", look[of_group], torch.ones(12, dtype=torch.bool))
    rng = np.random.default_rng(0)
    groups = [rng.permutation(5)[:4] + 1 + 5 * (user % 2) for user in range(30)]
    users = pl.Series("user_id", [f"u{user:02d}" for user in range(30)])
    histories = Histories(users, np.arange(0, 121, 4), np.concatenate(groups).astype(np.int32))
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.train()
    for epoch in range(30):
        for packed in training_batches(histories, 5, 40, np.random.default_rng(epoch)):
            optimiser.zero_grad()
            model.loss(TokenBatch.from_packed(packed, model.device))["loss"].backward()
            optimiser.step()
    scores = model.eval().score(histories.take(np.array([0, 1])))
    assert scores[0, 10] > scores[0, 11]
    assert scores[1, 11] > scores[1, 10]
