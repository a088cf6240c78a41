"""Full ranking of 20,000 users x 10,000 items, against scoring everything and sorting it, and of
100,000 users x 50,000 items.

Run with ``pytest -m bench -s tests/benchmarks/bench_ranking.py``.
"""

import time

import numpy as np
import polars as pl
import pytest
import torch

from sicsrec.data.sequences import Histories
from sicsrec.evaluation.intervals import bootstrap_means
from sicsrec.evaluation.ranking import rank_targets, recommend
from tests.benchmarks.child import memory

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

N_USERS, N_ITEMS, WIDTH = 20_000, 10_000, 64


class LastItem:
    """Scores by the vector of the last item; the model itself costs next to nothing."""

    def __init__(self, n_items: int = N_ITEMS) -> None:
        generator = torch.Generator().manual_seed(0)
        self.item_matrix = torch.randn(n_items, WIDTH, generator=generator)

    def score(self, histories: Histories) -> torch.Tensor:
        last = torch.from_numpy(histories.items[histories.offsets[1:] - 1].astype(np.int64) - 1)
        return self.item_matrix[last] @ self.item_matrix.T


def test_ranking_beats_sorting_everything(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    histories = Histories(
        pl.Series("user_id", [str(user) for user in range(N_USERS)]),
        np.arange(N_USERS + 1, dtype=np.int64) * 10,
        rng.integers(1, N_ITEMS + 1, N_USERS * 10).astype(np.int32),
    )
    targets = rng.integers(1, N_ITEMS + 1, N_USERS).astype(np.int32)
    scorer = LastItem()
    seconds = {}

    started = time.perf_counter()
    scores = scorer.score(histories).numpy()
    order = np.argsort(-scores, axis=1)
    naive = np.argmax(order == targets[:, None] - 1, axis=1) + 1
    seconds["score all, argsort"] = time.perf_counter() - started
    del scores, order

    for block_users in (64, 256, 1024):
        started = time.perf_counter()
        ranks = rank_targets(scorer, histories, targets, remove_seen=False, block_users=block_users)
        seconds[f"rank_targets, blocks of {block_users}"] = time.perf_counter() - started
    started = time.perf_counter()
    rank_targets(scorer, histories, targets, remove_seen=True)
    seconds["rank_targets, seen removed"] = time.perf_counter() - started
    started = time.perf_counter()
    recommend(scorer, histories, 20, remove_seen=True)
    seconds["recommend 20, seen removed"] = time.perf_counter() - started
    started = time.perf_counter()
    bootstrap_means(np.random.default_rng(0).random((100_000, 5)), 1000, seed=0)
    seconds["bootstrap 1000 x 100,000 users x 5 metrics"] = time.perf_counter() - started

    with capsys.disabled():
        for name, value in seconds.items():
            print(f"\n{name}: {value:.2f} s", end="")  # noqa: T201
    # Random scores tie now and then; sorting then puts the target first or last as it happens.
    assert np.abs(ranks - naive).max() <= 1
    assert seconds["rank_targets, blocks of 256"] < seconds["score all, argsort"]


def test_ranking_of_many_users_over_many_items(capsys: pytest.CaptureFixture[str]) -> None:
    """100,000 users x 50,000 items: as a matrix, 20 GB of scores."""
    n_users, n_items = 100_000, 50_000
    rng = np.random.default_rng(0)
    histories = Histories(
        pl.Series("user_id", np.arange(n_users).astype(str)),
        np.arange(n_users + 1, dtype=np.int64) * 10,
        rng.integers(1, n_items + 1, n_users * 10).astype(np.int32),
    )
    targets = rng.integers(1, n_items + 1, n_users).astype(np.int32)
    before = memory("VmHWM")
    wall, process = time.perf_counter(), time.process_time()
    ranks = rank_targets(LastItem(n_items), histories, targets, remove_seen=False)
    wall, process = time.perf_counter() - wall, time.process_time() - process
    with capsys.disabled():
        print(  # noqa: T201
            f"\nrank_targets, {n_users:,} users x {n_items:,} items: {wall:.1f} s, "
            f"{process:.1f} s of processor time, {memory('VmHWM') - before:,.0f} MB",
            end="",
        )
    # Targets are drawn blindly, so their ranks are uniform.
    assert abs(ranks.mean() / n_items - 0.5) < 0.01
