"""The trained rivals against their naive twins, on rows that hold several histories."""

import numpy as np
import pytest
import torch

from sicsrec.models.base import SequenceModel, TokenBatch
from sicsrec.models.candidates import CandidateSampler
from sicsrec.models.content_encoder import ContentEncoder, FrozenFeatures
from sicsrec.models.gru4rec import Gru4Rec
from tests.parity import naive_models as naive
from tests.parity.test_stage_two import (
    MAX_LENGTH,
    N_ITEMS,
    SEQUENCES,
    TOWER,
    WIDTH,
    by_sequence,
    histories,
    packed_tokens,
    randomise,
)


def make_gru() -> Gru4Rec:
    model = Gru4Rec(
        n_items=N_ITEMS, width=WIDTH, n_layers=2, dropout=0.5, max_history_length=MAX_LENGTH
    )
    randomise(model)
    return model.eval()


def make_content(kind: type[ContentEncoder]) -> ContentEncoder:
    positions = "from_end" if kind is FrozenFeatures else "from_start"
    model = kind(**TOWER, vector_widths={"text": 6, "image": 5}, positions=positions)
    randomise(model)
    generator = torch.Generator().manual_seed(5)
    present = torch.ones(N_ITEMS, dtype=torch.bool)
    for modality, width in (("text", 6), ("image", 5)):
        matrix = torch.randn(N_ITEMS, width, generator=generator)
        model.content_embedding.load_vectors(modality, matrix, present)
        present = present.clone()
        present[[1, 4]] = False
    return model.eval()


def states_of(model: SequenceModel, items: list[int]) -> list[torch.Tensor]:
    if isinstance(model, Gru4Rec):
        return naive.gru_states(model, items)
    assert isinstance(model, ContentEncoder)
    return naive.content_encoder_states(model, items)


def vector_of(model: SequenceModel, item: int) -> torch.Tensor:
    if isinstance(model, Gru4Rec):
        return model.item_embedding.weight[item]
    assert isinstance(model, ContentEncoder)
    return naive.content_of(model, item)


@pytest.fixture(params=["gru4rec", "content_encoder", "frozen_features"])
def rival(request) -> SequenceModel:
    if request.param == "gru4rec":
        return make_gru()
    return make_content(ContentEncoder if request.param == "content_encoder" else FrozenFeatures)


@torch.no_grad()
def test_every_token_of_a_packed_batch_equals_the_naive_one(rival) -> None:
    batch, kept = packed_tokens(SEQUENCES, with_targets=False)
    assert int(batch.segments.max()) > 1, "a row must hold several histories"
    found = by_sequence(batch, rival.encode(batch))
    assert len(found) == len(kept)
    for states, items in zip(found, kept, strict=True):
        expected = torch.stack(states_of(rival, items))
        torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_what_shares_a_row_changes_nothing(rival) -> None:
    """Other items in the first history of a row leave the states of the second as they are."""
    batch, _ = packed_tokens([[1, 2, 3], [4, 5, 6]], with_targets=False)
    assert batch.items.shape == (1, MAX_LENGTH)
    items = batch.items.clone()
    items[0, :3] = torch.tensor([9, 8, 7])
    other = TokenBatch(items, batch.positions, batch.segments, batch.targets)
    before, after = rival.encode(batch)[0], rival.encode(other)[0]
    assert not torch.allclose(before[:3], after[:3])
    torch.testing.assert_close(before[3:], after[3:])


@torch.no_grad()
def test_the_loss_is_the_mean_of_the_naive_ones(rival) -> None:
    batch, kept = packed_tokens(SEQUENCES, with_targets=True)
    table = torch.stack([vector_of(rival, item) for item in range(1, N_ITEMS + 1)])
    expected = [
        naive.cross_entropy(state, table, target)
        for sequence in kept
        for state, target in zip(states_of(rival, sequence[:-1]), sequence[1:], strict=True)
    ]
    assert float(rival.loss(batch)["loss"]) == pytest.approx(np.mean(expected), rel=1e-4)


@torch.no_grad()
def test_with_every_item_a_candidate_the_sampled_loss_is_the_full_one(rival) -> None:
    batch, _ = packed_tokens(SEQUENCES, with_targets=True)
    whole = float(rival.loss(batch)["loss"])
    rival.candidates = CandidateSampler(N_ITEMS, torch.ones(N_ITEMS, dtype=torch.long))
    assert float(rival.loss(batch)["loss"]) == pytest.approx(whole, rel=1e-5)


@torch.no_grad()
def test_scores_equal_the_naive_ones(rival) -> None:
    sequences = [*SEQUENCES[:2], [], *SEQUENCES[2:]]
    scores = rival.score(histories(sequences))
    for row, items in enumerate(sequences):
        if not items:
            assert (scores[row] == 0).all()
            continue
        user = states_of(rival, items[-MAX_LENGTH:])[-1]
        for item in range(1, N_ITEMS + 1):
            expected = float(user @ vector_of(rival, item))
            assert float(scores[row, item - 1]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("n_rows", [1, 3])
def test_a_gru_that_reads_padding_alone_still_has_a_gradient_for_every_weight(n_rows):
    padding = torch.zeros(n_rows, MAX_LENGTH, dtype=torch.long)
    model = make_gru().train()
    states = model.encode(TokenBatch(padding, padding, padding, padding))
    assert states.shape == (n_rows, MAX_LENGTH, WIDTH)
    states.sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_a_gru_computes_in_bfloat16():
    model, (batch, _) = make_gru(), packed_tokens(SEQUENCES, with_targets=True)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.encode(batch)
    is_token = batch.segments > 0
    torch.testing.assert_close(
        rounded[is_token].float(), model.encode(batch)[is_token], atol=0.05, rtol=0.05
    )
