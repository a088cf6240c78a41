"""Training steps of stage 2 to be measured: packed as in the library, and as rows of prefixes."""

import math
import os
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from sicsrec.config.encoders import Precision
from sicsrec.data.packing import training_batches
from sicsrec.data.sequences import Histories, item_counts
from sicsrec.encoders.precision import computing_in
from sicsrec.models.base import SequenceModel, TokenBatch
from sicsrec.models.candidates import CandidateSampler
from sicsrec.models.id_encoder import IdEncoder
from sicsrec.models.sicsrec import SICSRec
from tests.benchmarks.child import memory

DEVICE = torch.device(os.environ.get("SICSREC_DEVICE", "cpu"))
CLOCK = "process" if DEVICE.type == "cpu" else "wall"
"""What rates are told by: others may use a processor too, and a GPU has no time of this process."""
LENGTH, BATCH = 50, 1024
TOWER = {
    "width": 256,
    "inner_width": 256,
    "n_layers": 2,
    "n_heads": 2,
    "dropout": 0.5,
    "max_history_length": LENGTH,
}


class AsTheField(SICSRec):
    """SICSRec whose content is adapted anew for every token, padding included."""

    def encode(self, batch: TokenBatch) -> Tensor:
        return self.fuse(*self.tower_states(batch, self.content_embedding(batch.items)))


MOVIELENS = "MovieLens 100K"
DATASETS = ("Bili_Food", "Bili_Movie", MOVIELENS)


def file_of(data: Path, dataset: str) -> Path:
    """Return where the log of one of :data:`DATASETS` lies in the folder of the real data."""
    if dataset == MOVIELENS:
        return data / "movielens-100k" / "u.data"
    return data / "ninerec" / dataset / "sequential_data.txt"


def sequences(data: Path, dataset: str) -> list[np.ndarray]:
    """Return the histories with at least three items, oldest item first, as indices from 1."""
    path = file_of(data, dataset)
    if dataset == MOVIELENS:
        names = ["user", "item", "rating", "timestamp"]
        log = pl.read_csv(path, separator="\t", has_header=False, new_columns=names)
        log = log.unique(["user", "item"], keep="first", maintain_order=True)
        log = log.sort("timestamp", maintain_order=True).with_columns(pl.col("item").rank("dense"))
        users = [
            items.to_numpy().astype(np.int64)
            for items in log.group_by("user", maintain_order=True).agg("item")["item"]
        ]
    else:
        lines = path.read_text(encoding="utf-8").splitlines()
        users = [np.array(line.split()[1:], dtype=np.int64) + 1 for line in lines]
    return [items for items in users if len(items) > 2]


def as_histories(rows: Sequence[np.ndarray]) -> Histories:
    """Return rows of item indices as histories of users named by their row."""
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    users = pl.Series("user_id", [str(row) for row in range(len(rows))])
    return Histories(users, offsets, np.concatenate(rows).astype(np.int32))


def bili_food(data: Path) -> tuple[Histories, dict[str, np.ndarray]]:
    """Return training histories (all but the last two items) and the given vectors."""
    vectors = {
        modality: np.load(data / f"features/Bili_Food_{name}.npy")
        for modality, name in (("text", "text"), ("image", "second"))
    }
    return as_histories([items[:-2] for items in sequences(data, "Bili_Food")]), vectors


def generated(n_users: int, n_items: int) -> Histories:
    """Return histories as short as Bili_Food's (mean 4) with items of a skewed popularity."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(1 + rng.geometric(1 / 3, n_users), LENGTH + 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = 1 + (n_items * rng.random(offsets[-1]) ** 3).astype(np.int32)
    return Histories(pl.Series("user_id", np.arange(n_users).astype(str)), offsets, items)


def make_model(
    step: int, n_items: int, vectors: dict[str, np.ndarray], kind: type[SICSRec] = SICSRec
) -> SequenceModel:
    torch.manual_seed(0)
    if step == 1:
        return IdEncoder(n_items=n_items, **TOWER).to(DEVICE).train()
    model = kind(
        n_items=n_items,
        **TOWER,
        vector_widths={modality: matrix.shape[1] for modality, matrix in vectors.items()},
        fusion_dropout=0.0,
        adapter_rank=4,
        alpha=0.2,
        temperature=0.05,
        table_penalty=0.01,
        item_dropout=0.5,
        scoring="normalised",
    )
    for modality, matrix in vectors.items():
        present = torch.ones(len(matrix), dtype=torch.bool)
        model.content_embedding.load_vectors(modality, torch.from_numpy(matrix), present)
    return model.to(DEVICE).train()


def packed_batches(histories: Histories, n_targets: int = BATCH) -> Iterator[TokenBatch]:
    """Yield the library's batches, epoch after epoch."""
    rng = np.random.default_rng(0)
    while True:
        for packed in training_batches(histories, LENGTH, n_targets, rng):
            yield TokenBatch.from_packed(packed, DEVICE)


def prefix_batches(histories: Histories, n_rows: int = BATCH) -> Iterator[TokenBatch]:
    """Yield rows of 50 tokens that each hold one prefix of a history and have one target."""
    users = np.repeat(np.arange(len(histories)), np.maximum(histories.lengths - 1, 0))
    firsts = np.cumsum(histories.lengths - 1) - (histories.lengths - 1)
    lengths = np.arange(len(users)) - firsts[users] + 1
    positions = torch.arange(LENGTH, device=DEVICE).expand(n_rows, LENGTH)
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(len(users))
        for start in range(0, len(order) - n_rows + 1, n_rows):
            items = np.zeros((n_rows, LENGTH), dtype=np.int64)
            targets = np.zeros((n_rows, LENGTH), dtype=np.int64)
            for row, which in enumerate(order[start : start + n_rows]):
                history, length = histories.of_user(users[which]), lengths[which]
                kept = min(length, LENGTH)
                items[row, :kept] = history[length - kept : length]
                targets[row, kept - 1] = history[length]
            tokens = torch.from_numpy(items).to(DEVICE)
            next_items = torch.from_numpy(targets).to(DEVICE)
            yield TokenBatch(tokens, positions, (tokens > 0).long(), next_items)


def train_on(
    model: SequenceModel,
    batches: Iterator[TokenBatch],
    n_warm_up: int,
    n_batches: int,
    precision: Precision = "float32",
) -> dict[str, float]:
    """Take optimiser steps and return how long they took; making the batches is part of it."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=1e-3, fused=True)
    n_targets, wall, process = 0, 0.0, 0.0
    for number in range(n_warm_up + n_batches):
        if number == n_warm_up:
            wait_for_device()
            wall, process = time.perf_counter(), time.process_time()
        batch = next(batches)
        with computing_in(precision, model.device):
            loss = model.loss(batch)["loss"]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if number >= n_warm_up:
            scored = batch.scored
            n_targets += int((batch.targets > 0).sum()) if scored is None else len(scored)
    wait_for_device()
    return {
        "targets": n_targets,
        "wall": time.perf_counter() - wall,
        "process": time.process_time() - process,
        "loss": float(loss),
    }


def wait_for_device() -> None:
    """Wait until all that was asked of a GPU is done."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize(DEVICE)


def peak_memory() -> float:
    """Return the peak of this process in MB, or that of the tensors on a GPU."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated(DEVICE) / 1e6
    return memory("VmHWM")


def held_memory() -> float:
    """Return what this process holds now in MB, or what its tensors on a GPU hold."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats(DEVICE)
        return torch.cuda.memory_allocated(DEVICE) / 1e6
    return memory("VmRSS")


def train_bili_food(
    step: int,
    side: str,
    data: str,
    n_warm_up: int,
    n_batches: int,
    precision: Precision = "float32",
    compiled: bool = False,
    n_targets: int = BATCH,
) -> dict[str, float]:
    """Measure the library's training (``packed``) or the rival's (``prefixes``)."""
    histories, vectors = bili_food(Path(data))
    n_items = len(vectors["text"])
    before = held_memory()
    if side == "packed":
        model, batches = make_model(step, n_items, vectors), packed_batches(histories, n_targets)
    else:
        model = make_model(step, n_items, vectors, AsTheField)
        batches = prefix_batches(histories)
        train_on(model, prefix_batches(histories, n_rows=16), 0, 1)
    if compiled:
        # The number of rows differs from batch to batch.
        model.encode = torch.compile(model.encode, dynamic=True)
    found = train_on(model, batches, n_warm_up, n_batches, precision)
    return found | {"megabytes": peak_memory() - before}


def train_step_one(dataset: str, data: str, n_warm_up: int, n_batches: int) -> dict[str, float]:
    """Measure the library's training of the ID encoder on one of :data:`DATASETS`."""
    rows = sequences(Path(data), dataset)
    model = make_model(1, int(max(items.max() for items in rows)), {})
    batches = packed_batches(as_histories([items[:-2] for items in rows]))
    return train_on(model, batches, n_warm_up, n_batches)


def train_generated(
    step: int,
    n_users: int,
    n_items: int,
    n_batches: int,
    batch_targets: int = BATCH,
    n_sampled: int | None = None,
) -> dict[str, Any]:
    """Measure training on generated histories, with the seconds of a whole epoch worked out.

    The optimiser's moments first exist after a small batch that is not timed, so the peak is that
    of any later batch. ``tables_megabytes`` is what the tables of the items, their gradients and
    Adam's two moments take.
    """
    histories = generated(n_users, n_items)
    rng = np.random.default_rng(1)
    vectors = {"text": rng.standard_normal((n_items, 384), dtype=np.float32)} if step == 2 else {}
    started = time.process_time()
    batches = packed_batches(histories, batch_targets)
    first = next(batches)
    once = time.process_time() - started
    warm_up = next(packed_batches(histories, 128))
    train_on(make_model(step, 100, {m: v[:100] for m, v in vectors.items()}), small_batches(), 0, 1)
    before = held_memory()
    model = make_model(step, n_items, vectors)
    if n_sampled is not None:
        counts = torch.from_numpy(item_counts(histories, n_items))
        model.candidates = CandidateSampler(n_sampled, counts)
    found = train_on(model, chain([warm_up, first], batches), 1, n_batches)
    n_targets = int((histories.lengths - 1).sum())
    widths = TOWER["width"] + sum(matrix.shape[1] for matrix in vectors.values())
    return found | {
        "epoch_targets": n_targets,
        "epoch_process": once + found[CLOCK] * n_targets / found["targets"],
        "megabytes": peak_memory() - before,
        "tables_megabytes": 4 * 4 * n_items * widths / 1e6,
    }


def small_batches() -> Iterator[TokenBatch]:
    """Yield batches that warm up torch without a trace in the peak memory."""
    return packed_batches(generated(100, 100), 64)


def share_of_matmul(step: int, data: str) -> dict[str, Any]:
    """Compare the FLOP/s of training steps with those of a large product, by processor time.

    ``in_products`` is the rate within the steps' matrix products, ``alone`` that of the same
    products repeated by themselves, when their operands lie in the cache. ``shares`` are those of
    the ten operations that take most of the time.
    """
    histories, vectors = bili_food(Path(data))
    model, batches = make_model(step, len(vectors["text"]), vectors), packed_batches(histories)
    with FlopCounterMode(display=False) as counter:
        model.loss(next(batches))["loss"].backward()
    matmul = max(product_rate((1024, 1024), (1024, 1024)) for _ in range(3))
    n_batches = 10
    found = train_on(model, batches, 2, n_batches)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        train_on(model, batches, 0, n_batches)
    flop, seconds, seconds_alone = 0.0, 0.0, 0.0
    for event in profiler.key_averages(group_by_input_shape=True):
        if event.key in ("aten::mm", "aten::addmm", "aten::bmm"):
            left, right = [shape for shape in event.input_shapes if len(shape) > 1][-2:]
            own = event.count * product_flop(left, right)
            flop += own
            seconds += event.self_cpu_time_total / 1e6
            seconds_alone += own / product_rate(left, right)
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    largest = sorted(times, key=lambda name: -times[name])[:10]
    return {
        "achieved": counter.get_total_flops() * n_batches / found["process"],
        "matmul": matmul,
        "flop": counter.get_total_flops(),
        "in_products": flop / seconds,
        "alone": flop / seconds_alone,
        "shares": {
            name.removeprefix("aten::"): times[name] / sum(times.values()) for name in largest
        },
    }


def product_flop(left: Sequence[int], right: Sequence[int]) -> int:
    return 2 * math.prod(left) * right[-1]


def product_rate(left: Sequence[int], right: Sequence[int]) -> float:
    """Return the FLOP/s of a product of two matrices, or of two batches of them."""
    a, b = torch.randn(left), torch.randn(right)
    flop = product_flop(left, right)
    n_times = max(3, int(1e9 / flop))
    a @ b
    started = time.process_time()
    for _ in range(n_times):
        a @ b
    return n_times * flop / (time.process_time() - started)
