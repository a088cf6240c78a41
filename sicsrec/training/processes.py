"""Training in several processes on this machine, started with torchrun and watched from here."""

import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch

from sicsrec.errors import ConfigError, TrainingProcessError
from sicsrec.progress import NoProgress, Progress
from sicsrec.tracking import NullTracker, Tracker
from sicsrec.training.events import EventReader, events_path
from sicsrec.training.job import Job
from sicsrec.training.sequential import FitState, fit

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 0.2
_LINES_OF_LOG = 20


def fit_in_processes(
    job: Job, n_processes: int, *, work: Path, tracker: Tracker, progress: Progress
) -> FitState:
    """Train ``job.model`` in place as :func:`sicsrec.training.sequential.fit` does.

    The processes share every batch and every validation; what comes out is that of one process up
    to rounding, dropout aside. On CUDA process r computes on device r. A killed run goes on from
    its checkpoint; the processes end with the one that started them.

    Args:
        job: what is trained, on the device on which it goes on afterwards.
        n_processes: how many; 1 trains right here.
        work: folder of the checkpoint and, while it is trained, of the job.
        tracker: receives losses and metrics with the epoch as x axis.
        progress: receives the number of finished epochs.

    Raises:
        ConfigError: if the device cannot be shared by so many.
        TrainingProcessError: if a process died.
        SicsrecError: whatever the first process that failed on purpose raised.
    """
    if n_processes > 1:
        _check_device(job.model.device, n_processes)
        folder = work / "job"
        shutil.rmtree(folder, ignore_errors=True)
        job.write(folder)
        with progress.stage(f"train {job.model.kind}", job.settings.max_epochs) as advance:
            events = EventReader(events_path(folder, 0), tracker, advance)
            _run(folder, work, job.model.device, n_processes, events)
        shutil.rmtree(folder)
        # All epochs are in the checkpoint, so this takes up the best weights and no more.
        tracker, progress = NullTracker(), NoProgress()
    return fit(
        job.model,
        job.train,
        job.validation,
        job.settings,
        work=work,
        tracker=tracker,
        progress=progress,
    )


def _check_device(device: torch.device, n_processes: int) -> None:
    if device.type == "cuda" and torch.cuda.device_count() < n_processes:
        raise ConfigError(
            f"{n_processes} processes want a GPU each, but there are {torch.cuda.device_count()}; "
            "ask for no more (SICSREC_PROCESSES)"
        )
    if device.type not in ("cuda", "cpu"):
        raise ConfigError(
            f"the device {device.type} cannot be shared by {n_processes} processes; ask "
            "for one (SICSREC_PROCESSES) or for the device cpu (SICSREC_DEVICE)"
        )


def _run(
    folder: Path, work: Path, device: torch.device, n_processes: int, events: EventReader
) -> None:
    log = folder / "processes.log"
    with (
        tempfile.TemporaryDirectory(prefix="sicsrec-") as meeting,
        log.open("wb") as output,
        _started(
            _command(folder, work, device, n_processes, meeting), n_processes, output
        ) as process,
    ):
        while process.poll() is None:
            _wait(process)
            events.read()
    events.read()
    others = [EventReader(events_path(folder, rank)) for rank in range(1, n_processes)]
    for reader in others:
        reader.read()
    for error in (reader.error for reader in (events, *others)):
        if error is not None:
            raise error
    if process.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        raise TrainingProcessError(
            f"one of {n_processes} training processes died (exit status {process.returncode}); "
            f"what they wrote last, from {log}:\n" + "\n".join(lines[-_LINES_OF_LOG:])
        )


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_SECONDS_BETWEEN_LOOKS)
    except subprocess.TimeoutExpired:
        return


def _command(
    folder: Path, work: Path, device: torch.device, n_processes: int, meeting: str
) -> list[str]:
    # The processes find each other by files, so nothing listens to others.
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", "1", "--nproc-per-node", str(n_processes), "--local-addr", "127.0.0.1"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{meeting}/agent"),
        *("--rdzv-conf", "store_type=file", "--max-restarts", "0"),
        *("-m", "sicsrec.training.peer", str(folder), str(work), device.type, f"{meeting}/group"),
    ]


@contextmanager
def _started(
    command: list[str], n_processes: int, output: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that ends when this one does, however that comes about.

    Its standard input is a pipe that only this process writes to: when the other end reads an end
    of file, whoever held it is gone.
    """
    environment = {
        **os.environ,
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    n_threads = max(1, (os.cpu_count() or 1) // n_processes)
    environment.setdefault("OMP_NUM_THREADS", str(n_threads))
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if loopback:
        environment.setdefault("GLOO_SOCKET_IFNAME", loopback[0])
    process = subprocess.Popen(  # noqa: S603 - the command is made here
        command,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()
