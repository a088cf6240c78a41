"""Full ranking of 20,000 users x 10,000 items, against scoring everything and sorting it, and of
100,000 users x 50,000 items; the memory in which a blend scores a million items.

Run with ``pytest -m bench -s tests/benchmarks/bench_ranking.py``.
"""

import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from sicsrec.data.sequences import Histories
from sicsrec.evaluation.intervals import bootstrap_means
from sicsrec.evaluation.ranking import rank_targets, recommend
from sicsrec.models import blend as blends
from tests.benchmarks.child import measure, memory
from tests.benchmarks.stage_two import generated, make_model

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


def score_by_blend(n_users: int, n_items: int, scored_at_once: int) -> dict[str, float]:
    """Score all items by a blend of the ID encoder and all features of one modality."""
    train = generated(100_000, n_items)
    vectors = np.random.default_rng(1).standard_normal((n_items, WIDTH), dtype=np.float32)
    facts = blends.HistoryFacts.from_training(train, n_items, {"text": vectors})
    blend = blends.Blend([make_model(1, n_items, {}).eval()], facts)
    users = train.take(np.arange(n_users))
    blend.weights = {name: 0.1 for name, _ in blend.features(users.take(np.arange(1)))}
    blends._SCORED_AT_ONCE = scored_at_once
    # From here on the peak is that of scoring.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, process = memory("VmRSS"), time.process_time()
    scores = blend.score(users)
    return {
        "process": time.process_time() - process,
        "megabytes": memory("VmHWM") - before,
        "scores": scores.numel() * scores.element_size() / 1e6,
        "sum": float(scores.double().sum()),
    }


def test_blend_scores_in_little_more_memory_than_the_scores(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """256 users x 1,000,000 items, some users at a time, and all at once."""
    size = {"n_users": 256, "n_items": 1_000_000}
    in_parts, at_once = (
        measure("bench_ranking:score_by_blend", **size, scored_at_once=limit)
        for limit in (blends._SCORED_AT_ONCE, size["n_users"] * size["n_items"])
    )
    with capsys.disabled():
        for name, found in (("some users at a time", in_parts), ("all at once", at_once)):
            print(  # noqa: T201
                f"\nblend, {name}: {found['process']:.1f} s of processor time, "
                f"{found['megabytes']:,.0f} MB, of which {found['scores']:,.0f} are the scores",
                end="",
            )
    assert in_parts["sum"] == pytest.approx(at_once["sum"], rel=1e-6)
    assert in_parts["megabytes"] < 1.5 * in_parts["scores"]
    assert in_parts["megabytes"] < 0.5 * at_once["megabytes"]
