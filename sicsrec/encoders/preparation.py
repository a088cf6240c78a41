"""Reads, decodes and preprocesses items ahead of the encoder, in other processes where asked to."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from sicsrec.cores import usable_cores
from sicsrec.encoders.base import EncoderInputs, Prepare
from sicsrec.encoders.content import ItemContent

_AHEAD = 2
"""Batches per process that are in work or in memory."""
_BATCHES_PER_WORKER = 8
"""Fewer are not worth the seconds that a process takes to start."""

Arrays = tuple[NDArray[np.generic], NDArray[np.generic]]


class _Job:
    """What a worker process keeps: how to read items and what to do with them."""

    prepare: Prepare
    content: ItemContent


def count_workers(n_workers: int | None, device: torch.device, n_batches: int) -> int:
    """Return how many processes prepare covers beside an encoder on ``device``.

    Args:
        n_workers: as configured; None: none on a CPU, which the encoder keeps busy, nor for so few
            batches that they would be done before a process has started.
        device: where the encoder is.
        n_batches: batches that there are to prepare.
    """
    if n_workers is not None:
        return n_workers
    if device.type == "cpu":
        return 0
    return min(8, max(1, usable_cores() - 1), n_batches // _BATCHES_PER_WORKER)


def prepare_batches(
    prepare: Prepare,
    content: ItemContent,
    batches: Sequence[NDArray[np.int32]],
    n_workers: int,
) -> Iterator[EncoderInputs]:
    """Yield the inputs of every batch, in order.

    Processes are spawned, not forked: a forked copy of a process with threads, such as one that
    runs a Prefect task, may hang. They end with the process that started them, however it ends.

    Args:
        prepare: of the encoder; sent to the processes, so it must pickle.
        content: gives texts or covers; likewise.
        batches: item indices.
        n_workers: processes; 0: this one does it.
    """
    if n_workers == 0:
        for batch in batches:
            yield prepare(content.get(batch))
        return
    pool = ProcessPoolExecutor(
        min(n_workers, max(1, len(batches))),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(prepare, content),
    )
    try:
        waiting: deque[Future[Arrays]] = deque()
        for batch in batches:
            waiting.append(pool.submit(_prepare_batch, batch))
            if len(waiting) >= _AHEAD * n_workers:
                yield _to_inputs(waiting.popleft())
        while waiting:
            yield _to_inputs(waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _to_inputs(future: Future[Arrays]) -> EncoderInputs:
    values, lengths = future.result()
    return EncoderInputs(torch.from_numpy(values), torch.from_numpy(lengths))


def _start_worker(prepare: Prepare, content: ItemContent) -> None:
    torch.set_num_threads(1)
    _Job.prepare, _Job.content = staticmethod(prepare), content
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End this process when the one that started it is gone; nothing else would tell it to."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _prepare_batch(batch: NDArray[np.int32]) -> Arrays:
    # Arrays, not tensors: those would travel in shared memory, of which containers have little.
    inputs = _Job.prepare(_Job.content.get(batch))
    return inputs.values.numpy(), inputs.lengths.numpy()
