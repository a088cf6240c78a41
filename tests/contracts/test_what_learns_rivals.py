"""Which weights of the trained rivals move, and that what is frozen does not."""

import pytest
import torch

from sicsrec.models.base import SequenceModel
from sicsrec.models.content_encoder import ContentEncoder, FrozenFeatures
from sicsrec.models.gru4rec import Gru4Rec
from sicsrec.models.storage import load_model, save_model
from tests.parity.test_stage_two import SEQUENCES, packed_tokens

N_ITEMS, WIDTH, LENGTH = 11, 8, 6


def make(kind: type[SequenceModel], *, all_present: bool = False) -> SequenceModel:
    torch.manual_seed(0)
    settings = {"n_items": N_ITEMS, "width": WIDTH, "n_layers": 2, "dropout": 0.2}
    if kind is Gru4Rec:
        return Gru4Rec(**settings, max_history_length=LENGTH)
    model = kind(
        **settings, inner_width=8, n_heads=2, max_history_length=LENGTH, vector_widths={"text": 6}
    )
    present = torch.ones(N_ITEMS, dtype=torch.bool)
    present[2] = all_present
    model.content_embedding.load_vectors("text", torch.randn(N_ITEMS, 6), present)
    return model


def moved(model: SequenceModel) -> set[str]:
    """Return the names of the weights that a few steps of the optimiser change."""
    before = {name: value.clone() for name, value in model.named_parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=0.01)
    batch, _ = packed_tokens(SEQUENCES, with_targets=True)
    for _ in range(3):
        optimiser.zero_grad()
        model.loss(batch)["loss"].backward()
        optimiser.step()
    return {n for n, value in model.named_parameters() if not torch.equal(value, before[n])}


TABLE = "content_embedding.adapters.text.table.weight"
PLACEHOLDER = "content_embedding.adapters.text.placeholder"


@pytest.mark.parametrize(
    ("kind", "frozen"), [(Gru4Rec, set()), (ContentEncoder, set()), (FrozenFeatures, {TABLE})]
)
def test_all_but_what_is_frozen_moves(kind, frozen) -> None:
    model = make(kind).train()
    assert moved(model) == {name for name, _ in model.named_parameters()} - frozen


def test_the_placeholder_is_not_trained_where_nothing_reads_it() -> None:
    model = make(FrozenFeatures, all_present=True).train()
    names = {name for name, _ in model.named_parameters()}
    assert moved(model) == names - {TABLE, PLACEHOLDER}


@torch.no_grad()
def test_the_padding_row_stays_zero() -> None:
    model = make(Gru4Rec).train()
    with torch.enable_grad():
        moved(model)
    assert (model.item_embedding.weight[0] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("kind", [Gru4Rec, ContentEncoder, FrozenFeatures])
def test_a_saved_rival_is_the_same_again(kind, tmp_path) -> None:
    model = make(kind).eval()
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded) is kind
    assert loaded.settings() == model.settings()
    batch, _ = packed_tokens(SEQUENCES, with_targets=False)
    assert torch.equal(loaded.encode(batch), model.encode(batch))
    trained = {name: p.requires_grad for name, p in loaded.named_parameters()}
    assert trained.get(TABLE, True) is (kind is not FrozenFeatures)
