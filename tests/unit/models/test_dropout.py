"""Dropout with cheap masks: rates, scale, independence, seed, gradient, and attention with it."""

import pytest
import torch

from sicsrec.models.dropout import dropout, keep_mask, quantised_rate
from sicsrec.models.layers import Attention, causal_mask


@pytest.mark.parametrize("p", [0.1, 0.25, 0.3, 0.5, 0.9])
def test_values_are_dropped_at_the_rate_and_the_rest_scaled(p):
    torch.manual_seed(0)
    rate, _ = quantised_rate(p)
    assert abs(rate - p) <= 2**-17
    dropped = dropout(torch.ones(301, 333), p, training=True)
    share = float((dropped == 0).double().mean())
    # Five standard deviations of a binomial share.
    assert abs(share - p) < 5 * (p * (1 - p) / dropped.numel()) ** 0.5
    kept = dropped[dropped != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - rate)))


def test_values_that_share_a_random_number_are_dropped_independently():
    torch.manual_seed(0)
    for p in (0.3, 0.5):
        kept = keep_mask(torch.empty(100_000, 8), quantised_rate(p)[0]).double()
        correlation = torch.corrcoef(kept.T) - torch.eye(8)
        assert float(correlation.abs().max()) < 5 / 100_000**0.5


def test_masks_follow_the_seed_and_change_from_draw_to_draw():
    x = torch.ones(77)
    torch.manual_seed(3)
    first, second = dropout(x, 0.5, training=True), dropout(x, 0.5, training=True)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5, training=True), first)
    assert not torch.equal(first, second)


def test_nothing_is_dropped_without_training_or_rate():
    x = torch.randn(5)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x


def test_the_gradient_passes_where_the_value_does():
    torch.manual_seed(0)
    x = torch.rand(50) + 1
    x.requires_grad_()
    dropped = dropout(x, 0.5, training=True)
    dropped.sum().backward()
    assert torch.equal(x.grad, (dropped != 0) * 2.0)


@pytest.mark.parametrize("length", [1, 7])
def test_attention_with_a_vanishing_rate_is_attention_without(length):
    """The path with dropped weights computes the same as torch's, padding included."""
    torch.manual_seed(0)
    attention = Attention(width=8, n_heads=2, dropout=1e-9)
    x = torch.randn(3, length, 8)
    mask = causal_mask(torch.tensor([1, 1, 2, 2, 2, 0, 0])[:length].expand(3, -1))
    found = attention.train()(x, x, mask)
    torch.testing.assert_close(found, attention.eval()(x, x, mask))
