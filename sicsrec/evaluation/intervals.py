"""How sure a mean over users is: bootstrap intervals and paired differences.

Users are the unit of resampling. All columns (models, metrics) of one call are resampled together,
with the same users in every resample, so the difference of two columns is a paired one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CHUNK_DRAWS = 4_000_000
"""Users drawn at once; bounds the memory at about 100 MB whatever the number of users."""


@dataclass(frozen=True)
class PairedDifference:
    """Mean of one model minus mean of another over the same users."""

    difference: float
    low: float
    """Lower end of the percentile interval."""
    high: float
    """Upper end of the percentile interval."""
    share_below_zero: float
    """Share of the resamples in which the difference is below 0."""


def bootstrap_means(
    values: NDArray[np.float64], n_resamples: int, seed: int
) -> NDArray[np.float64]:
    """Return the mean of every column in resamples of the rows with replacement.

    Args:
        values: [U, C], one row per user, U at least 1.
        n_resamples: R.
        seed: equal seeds give equal resamples for equal U.

    Returns:
        [R, C].

    Raises:
        ValueError: if there are no users.
    """
    n_users = len(values)
    if not n_users:
        raise ValueError("a bootstrap needs at least one user")
    rng = np.random.default_rng(seed)
    means = np.empty((n_resamples, values.shape[1]))
    chunk = max(1, _CHUNK_DRAWS // n_users)
    for start in range(0, n_resamples, chunk):
        n = min(chunk, n_resamples - start)
        # How often each user was drawn times the values costs one matrix product for all columns.
        drawn = rng.integers(0, n_users, size=(n, n_users))
        drawn += np.arange(n)[:, None] * n_users
        counts = np.bincount(drawn.ravel(), minlength=n * n_users).reshape(n, n_users)
        means[start : start + n] = counts.astype(np.float64) @ values / n_users
    return means


def percentile_interval(
    means: NDArray[np.float64], confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lower and the upper end of the percentile interval of every column.

    Args:
        means: [R, C], as :func:`bootstrap_means` returns them.
        confidence: share of the resamples inside, in (0, 1).

    Returns:
        Lower ends [C] and upper ends [C].
    """
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail], axis=0)
    return low, high


def paired_differences(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    n_resamples: int,
    confidence: float,
    seed: int,
) -> list[PairedDifference]:
    """Compare models on the same users: mean of ``first`` minus mean of ``second``.

    Args:
        first: [U, C], a metric of one model per user and column.
        second: [U, C], the same metrics of other models; row r is the same user.
        n_resamples: resamples of the users, the same for all columns.
        confidence: coverage of the intervals, in (0, 1).
        seed: of the resamples.

    Returns:
        One comparison per column.

    Raises:
        ValueError: if the shapes differ or there are no users.
    """
    if first.shape != second.shape:
        raise ValueError(f"paired values differ in shape: {first.shape} and {second.shape}")
    differences = first - second
    means = bootstrap_means(differences, n_resamples, seed)
    lows, highs = percentile_interval(means, confidence)
    observed, below = differences.mean(axis=0), (means < 0.0).mean(axis=0)
    return [
        PairedDifference(*map(float, column))
        for column in zip(observed, lows, highs, below, strict=True)
    ]


def paired_difference(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    n_resamples: int,
    confidence: float,
    seed: int,
) -> PairedDifference:
    """Return :func:`paired_differences` of one metric of two models, both [U]."""
    (found,) = paired_differences(
        first[:, None],
        second[:, None],
        n_resamples=n_resamples,
        confidence=confidence,
        seed=seed,
    )
    return found
