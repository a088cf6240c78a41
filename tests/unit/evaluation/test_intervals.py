import tracemalloc

import numpy as np
import pytest

from sicsrec.evaluation import intervals
from sicsrec.evaluation.intervals import (
    bootstrap_means,
    paired_difference,
    percentile_interval,
)


def test_resampled_means_spread_as_theory_says() -> None:
    values = np.zeros((400, 1))
    values[:100] = 1.0
    means = bootstrap_means(values, 4000, seed=0)
    assert means.shape == (4000, 1)
    # A binomial share: mean 0.25, standard deviation sqrt(0.25 * 0.75 / 400); 4000 draws give the
    # latter to about 1.1 %, so 5 % is more than four of its standard deviations.
    assert means.mean() == pytest.approx(0.25, abs=0.002)
    assert means.std() == pytest.approx(np.sqrt(0.25 * 0.75 / 400), rel=0.05)
    low, high = percentile_interval(means, 0.95)
    assert low[0] == pytest.approx(0.25 - 1.96 * 0.02165, abs=0.004)
    assert high[0] == pytest.approx(0.25 + 1.96 * 0.02165, abs=0.004)


def test_columns_are_resampled_together() -> None:
    values = np.random.default_rng(3).random((50, 1))
    means = bootstrap_means(np.hstack([values, values + 1.0]), 20, seed=5)
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 1.0)


def test_every_user_is_drawn_as_often_as_the_others() -> None:
    means = bootstrap_means(np.eye(4), 2000, seed=0)
    np.testing.assert_allclose(means.sum(axis=1), 1.0)
    # A share of 1/4 has a standard deviation of 0.22 in a resample of four, 0.005 in their mean.
    np.testing.assert_allclose(means.mean(axis=0), 0.25, atol=0.025)


def test_a_seed_fixes_the_resamples() -> None:
    values = np.random.default_rng(3).random((50, 2))
    first, again, other = (bootstrap_means(values, 30, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_chunks_do_not_change_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).random((50, 2))
    whole = bootstrap_means(values, 33, seed=1)
    monkeypatch.setattr(intervals, "_CHUNK_DRAWS", 50 * 4)
    np.testing.assert_allclose(bootstrap_means(values, 33, seed=1), whole)


def test_memory_is_bounded() -> None:
    values = np.ones((200_000, 1))
    tracemalloc.start()
    bootstrap_means(values, 60, seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150e6  # all draws at once would take 60 * 200,000 * 8 bytes three times over


def test_a_bootstrap_needs_users() -> None:
    with pytest.raises(ValueError, match="at least one user"):
        bootstrap_means(np.zeros((0, 2)), 10, seed=0)


def test_paired_differences_see_what_separate_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    second = (rng.random(300) < 0.2).astype(float)
    first = second.copy()
    first[np.flatnonzero(second == 0)[:12]] = 1.0
    result = paired_difference(first, second, n_resamples=2000, confidence=0.95, seed=1)
    assert result.difference == pytest.approx(12 / 300)
    assert 0 < result.low < result.difference < result.high
    assert result.share_below_zero == 0.0
    # The separate intervals overlap: the users' differences from each other drown the gain.
    lows, highs = percentile_interval(
        bootstrap_means(np.stack([first, second], axis=1), 2000, seed=1), 0.95
    )
    assert lows[0] < highs[1]


def test_share_below_zero_of_a_worse_model() -> None:
    zeros, ones = np.zeros(20), np.ones(20)
    result = paired_difference(zeros, ones, n_resamples=50, confidence=0.9, seed=0)
    assert (result.difference, result.share_below_zero) == (-1.0, 1.0)


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        paired_difference(np.zeros(3), np.zeros(4), n_resamples=5, confidence=0.9, seed=0)
