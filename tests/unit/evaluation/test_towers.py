import numpy as np
import pytest
import torch
from torch.nn import functional

from sicsrec.data.sequences import Histories
from sicsrec.evaluation.towers import (
    mean_fusion_input,
    modality_silenced,
    tower_replaced,
)
from sicsrec.models.sicsrec import TOWERS, SICSRec
from tests.unit.steps.tiny_store import make_catalog, make_interactions, make_sicsrec


@pytest.fixture
def model() -> SICSRec:
    return make_sicsrec().eval()


@pytest.fixture
def histories() -> Histories:
    return Histories.from_interactions(make_interactions(), make_catalog())


def states_of(model: SICSRec, histories: Histories) -> torch.Tensor:
    """Return [H_id; H_c; H_mix] of every token, users one by one, without padding."""
    found = []
    hook = model.fusion.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    rows = []
    for row in range(len(histories)):
        model.user_vectors(histories.take(np.array([row])))
        n_tokens = int(min(histories.lengths[row], model.max_history_length))
        rows.append(found.pop()[0, :n_tokens])
    hook.remove()
    return torch.cat(rows)


def test_mean_leaves_padding_out(model: SICSRec, histories: Histories) -> None:
    some = histories.take(np.array([0, 3, 5]))
    expected = states_of(model, some).mean(dim=0)
    found = mean_fusion_input(model, some)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tower", TOWERS)
def test_replaced_tower_no_longer_matters(model: SICSRec, histories: Histories, tower: str) -> None:
    before = model.score(histories)
    start = list(TOWERS).index(tower) * 8
    with tower_replaced(model, tower, None):
        zeroed = model.score(histories)
        with torch.no_grad():
            # Whatever W makes of the tower, it gets nothing but zeros.
            kept = model.fusion.weight[:, start : start + 8].clone()
            model.fusion.weight[:, start : start + 8] = 100.0
            assert torch.equal(model.score(histories), zeroed)
            model.fusion.weight[:, start : start + 8] = kept
    assert not torch.allclose(before, zeroed)
    assert torch.equal(model.score(histories), before)


def test_all_towers_replaced_by_the_mean_make_all_users_alike(
    model: SICSRec, histories: Histories
) -> None:
    mean = mean_fusion_input(model, histories)
    with (
        tower_replaced(model, "id", mean),
        tower_replaced(model, "content", mean),
        tower_replaced(model, "mix", mean),
    ):
        users = model.user_vectors(histories)
    expected = functional.normalize(model.fusion(mean), dim=-1)
    torch.testing.assert_close(users, expected.expand_as(users), atol=1e-5, rtol=1e-4)


def test_silenced_modality_is_back_after_the_block(model: SICSRec, histories: Histories) -> None:
    before = model.score(histories)
    with modality_silenced(model, "text"):
        assert not torch.allclose(model.score(histories), before)
    assert torch.equal(model.score(histories), before)
