"""The sampled softmax against its naive twin, and against the full softmax it stands for."""

import itertools
import math

import pytest
import torch

from sicsrec.models.candidates import CandidateSampler, sampled_cross_entropy
from sicsrec.models.losses import next_item_cross_entropy
from tests.parity.test_stage_two import (
    N_ITEMS,
    SEQUENCES,
    id_encoder,  # noqa: F401 - a fixture
    packed_tokens,
    sicsrec,  # noqa: F401 - a fixture
)


def test_with_every_item_drawn_it_is_the_full_softmax():
    torch.manual_seed(0)
    user = torch.randn(9, 4, requires_grad=True)
    table = torch.randn(7, 4, requires_grad=True)
    targets = torch.randint(1, 8, (9,))
    items, log_inclusion = CandidateSampler(7, torch.arange(7)).draw(targets)
    loss = sampled_cross_entropy(user, table[items - 1], targets, items, log_inclusion)
    full = next_item_cross_entropy(user, table, targets)
    torch.testing.assert_close(loss, full)
    for found, wanted in zip(
        torch.autograd.grad(loss, (user, table)),
        torch.autograd.grad(full, (user, table)),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("max_logits", [1, 12, 30])
def test_targets_worked_off_in_parts_have_the_same_loss_and_gradients(max_logits):
    torch.manual_seed(2)
    user = torch.randn(11, 4, requires_grad=True)
    table = torch.randn(20, 4, requires_grad=True)
    targets = torch.randint(1, 21, (11,))
    items, log_inclusion = CandidateSampler(5, torch.arange(20)).draw(targets)
    arguments = (targets, items, log_inclusion)
    whole = sampled_cross_entropy(user, table[items - 1], *arguments)
    parts = sampled_cross_entropy(user, table[items - 1], *arguments, max_logits)
    torch.testing.assert_close(parts, whole)
    for found, wanted in zip(
        torch.autograd.grad(parts, (user, table)),
        torch.autograd.grad(whole, (user, table)),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)


def test_the_id_encoder_with_every_item_drawn_has_the_loss_of_the_full_softmax(id_encoder):  # noqa: F811
    check_loss_of_full_softmax(id_encoder)


def test_sicsrec_with_every_item_drawn_has_the_loss_of_the_full_softmax(sicsrec):  # noqa: F811
    check_loss_of_full_softmax(sicsrec)


@torch.no_grad()
def check_loss_of_full_softmax(model):
    batch, _ = packed_tokens(SEQUENCES, with_targets=True)
    full = model.loss(batch)
    model.candidates = CandidateSampler(N_ITEMS, torch.ones(N_ITEMS, dtype=torch.long))
    sampled = model.loss(batch)
    for part, value in full.items():
        torch.testing.assert_close(sampled[part], value)
    model.candidates = CandidateSampler(2, torch.ones(N_ITEMS, dtype=torch.long))
    assert float(model.loss(batch)["loss"]) != pytest.approx(float(full["loss"]), rel=1e-4)


@torch.no_grad()
def test_it_equals_the_naive_sum_with_doubled_and_accidentally_drawn_targets():
    torch.manual_seed(1)
    user, table = torch.randn(5, 3), torch.randn(20, 3)
    targets = torch.tensor([4, 4, 9, 17, 1])
    sampler = CandidateSampler(6, torch.arange(20))
    while True:
        items, log_inclusion = sampler.draw(targets)
        if len(items) < 6 + 4:
            break  # one of the four distinct targets was drawn as well
    found = sampled_cross_entropy(user, table[items - 1], targets, items, log_inclusion)
    losses = []
    for u, target in zip(user, targets.tolist(), strict=True):
        own = math.exp(float(u @ table[target - 1]))
        others = 0.0
        for item in items.tolist():
            if item != target:
                inclusion = 1 - (1 - 6 / 20) * (1 - (item - 1) / 190) ** 4
                others += math.exp(float(u @ table[item - 1])) / inclusion
        losses.append(-math.log(own / (own + others)))
    assert float(found) == pytest.approx(sum(losses) / 5, rel=1e-4)


def test_the_sum_below_the_line_is_unbiased(monkeypatch):
    """Averaged over every draw with its probability, it is the sum over all items."""
    torch.manual_seed(2)
    n_items, n_drawn, target = 5, 2, 3
    counts = torch.tensor([4, 0, 3, 2, 1])
    shares = (counts / 10).tolist()
    exps = torch.rand(n_items).tolist()
    sampler = CandidateSampler(n_drawn, counts)
    draws = list(itertools.combinations(range(n_items), n_drawn))
    expectation = 0.0
    for drawn in draws:
        order = torch.tensor([*drawn, *(set(range(n_items)) - set(drawn))])
        monkeypatch.setattr(torch, "randperm", lambda n, device, order=order: order)
        for others in itertools.product(range(1, n_items + 1), repeat=2):
            probability = math.prod(shares[item - 1] for item in others) / len(draws)
            items, log_inclusion = sampler.draw(torch.tensor([target, *others]))
            pairs = zip(items.tolist(), log_inclusion.tolist(), strict=True)
            estimate = sum(exps[i - 1] / math.exp(log_p) for i, log_p in pairs if i != target)
            expectation += probability * estimate
    assert expectation == pytest.approx(sum(exps) - exps[target - 1], rel=1e-5)


def test_the_only_item_ever_watched_is_no_trouble():
    items, log_inclusion = CandidateSampler(1, torch.tensor([0, 5, 0])).draw(torch.tensor([2]))
    assert 2 in items.tolist()
    assert torch.isfinite(log_inclusion).all()


@pytest.mark.parametrize("max_logits", [40, 1 << 24])
def test_candidates_are_compared_in_full_precision_under_autocast(max_logits):
    torch.manual_seed(0)
    user, table = torch.randn(7, 16), torch.randn(40, 16, requires_grad=True)
    targets = torch.arange(1, 8)
    items, log_inclusion = CandidateSampler(12, torch.ones(40, dtype=torch.long)).draw(targets)
    arguments = (targets, items, log_inclusion, max_logits)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = sampled_cross_entropy(user, table[items - 1], *arguments)
        found.append((loss, *torch.autograd.grad(loss, table)))
    assert found[0][0].dtype == found[1][0].dtype == torch.float32
    torch.testing.assert_close(found[1], found[0], rtol=0.0, atol=0.0)
