"""Covers to vectors on MovieLens 100K: the whole way against the bare forward pass.

Run with ``pytest -m bench -s tests/benchmarks/bench_encoding.py``.
"""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sicsrec.encoders.encoding import EncodingSettings, encode_shards
from sicsrec.progress import NoProgress
from tests.benchmarks.movielens import N_THREADS, build_encoders, open_movielens

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

BATCH_SIZE, N_BATCHES, ROUNDS = 32, 3, 5


def test_reading_and_decoding_cost_little(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, real_data: Path
) -> None:
    content, encoder = open_movielens(tmp_path, real_data)["image"], build_encoders()["image"]
    n_items = BATCH_SIZE * N_BATCHES
    content.indices = content.indices[:n_items]
    batches = np.array_split(content.indices, N_BATCHES)
    prepared = [encoder.prepare(content.get(batch)) for batch in batches]
    settings = EncodingSettings(BATCH_SIZE, normalise=True)
    with torch.inference_mode():
        encoder.encode(prepared[0])
    bare: list[tuple[float, float]] = []
    whole: list[tuple[float, float]] = []
    # Turn by turn, because other work on the machine comes and goes.
    for number in range(ROUNDS):
        started, used = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            for inputs in prepared:
                encoder.encode(inputs)
        bare.append((time.perf_counter() - started, time.process_time() - used))
        work = tmp_path / str(number)
        work.mkdir()
        started, used = time.perf_counter(), time.process_time()
        encode_shards(
            encoder, content, settings, shard_items=4096, work=work, progress=NoProgress()
        )
        whole.append((time.perf_counter() - started, time.process_time() - used))
    bare_rate, bare_cpu_rate = (n_items / min(seconds) for seconds in zip(*bare, strict=True))
    rate, cpu_rate = (n_items / min(seconds) for seconds in zip(*whole, strict=True))
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{n_items} posters, {N_THREADS} threads, best of {ROUNDS}: bare forward pass "
            f"{bare_rate:.2f} items/s, from covers to vectors on disk {rate:.2f} items/s, "
            f"{rate / bare_rate:.1%} of it ({cpu_rate / bare_cpu_rate:.1%} by processor time, "
            "which other work disturbs less)"
        )
    assert cpu_rate >= 0.9 * bare_cpu_rate
