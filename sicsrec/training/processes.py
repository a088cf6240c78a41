"""Training in several processes, started with torchrun and watched from here."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from sicsrec.cluster import Hosts
from sicsrec.errors import TrainingProcessError
from sicsrec.progress import NoProgress, Progress
from sicsrec.tracking import NullTracker, Tracker
from sicsrec.training.checkpoint import FitState
from sicsrec.training.events import EventReader, events_path
from sicsrec.training.hosts import Announcement, announced, log_path, peer_command
from sicsrec.training.job import Job
from sicsrec.training.launching import (
    check_device,
    loopback_interface,
    network_interface,
    started,
    torchrun_alone,
    wait_a_little,
)
from sicsrec.training.sequential import epochs_of, fit

_SECONDS_BETWEEN_LOOKS = 0.2
_LINES_OF_LOG = 20


def fit_in_processes(
    job: Job,
    n_processes: int,
    *,
    work: Path,
    tracker: Tracker,
    progress: Progress,
    hosts: Hosts | None = None,
) -> FitState:
    """Train ``job.model`` in place as :func:`sicsrec.training.sequential.fit` does.

    The processes share every batch and every validation; what comes out is that of one process up
    to rounding, dropout aside. On CUDA process r computes on device r. A killed run goes on from
    its checkpoint; the processes end with the one that started them.

    Args:
        job: what is trained, on the device on which it goes on afterwards.
        n_processes: how many, on every host; 1 trains right here where there is but one host.
        work: folder of the checkpoint and, while it is trained, of the job.
        tracker: receives losses and metrics with the epoch as x axis.
        progress: receives the number of finished epochs.
        hosts: that train together; None: this one alone.

    Raises:
        ConfigError: if the device cannot be shared by so many.
        TrainingProcessError: if a process died, or a host did not take part.
        SicsrecError: whatever the first process that failed on purpose raised.
    """
    if n_processes > 1 or hosts is not None:
        check_device(job.model.device, n_processes)
        folder = work / "job"
        shutil.rmtree(folder, ignore_errors=True)
        job.write(folder)
        stage = epochs_of(job.model, is_refit=job.validation is None)
        with progress.stage(stage, job.settings.max_epochs) as advance:
            events = EventReader(events_path(folder, 0), tracker, advance)
            _run(folder, work, job.model.device, n_processes, hosts, events)
        # Another host may still hold a file of it; the next training there clears what stays.
        shutil.rmtree(folder, ignore_errors=True)
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


def _run(
    folder: Path,
    work: Path,
    device: torch.device,
    n_processes: int,
    hosts: Hosts | None,
    events: EventReader,
) -> None:
    n_hosts = hosts.n_hosts if hosts else 1
    n_all = n_processes * n_hosts
    readers = [events, *(EventReader(events_path(folder, rank)) for rank in range(1, n_all))]
    log = log_path(folder, 0)
    with (
        _prepared(folder, work, device.type, n_processes, hosts) as how,
        log.open("wb") as output,
        started(
            how.command,
            output,
            n_processes=n_processes,
            interface=how.interface,
            shares_store=hosts is not None,
        ) as process,
    ):
        while process.poll() is None and all(reader.error is None for reader in readers):
            wait_a_little(process, _SECONDS_BETWEEN_LOOKS)
            for reader in readers:
                reader.read()
    for reader in readers:
        reader.read()
        if reader.error is not None:
            raise reader.error
    if process.returncode != 0:
        raise TrainingProcessError(
            f"one of {n_all} training processes died (exit status {process.returncode}); what they "
            f"wrote last:\n{_last_lines(folder, n_hosts)}"
        )


@dataclass(frozen=True)
class _Prepared:
    command: list[str]
    interface: str | None


@contextmanager
def _prepared(
    folder: Path, work: Path, device_type: str, n_processes: int, hosts: Hosts | None
) -> Iterator[_Prepared]:
    """Make everything ready for the processes of this host."""
    if hosts is not None:
        interface = network_interface(hosts.address, hosts.port)
        announcement = Announcement.make(hosts, folder, work, device_type, n_processes)
        with announced(hosts, announcement):
            yield _Prepared(peer_command(announcement, 0, folder, work), interface)
        return
    with tempfile.TemporaryDirectory(prefix="sicsrec-") as meeting:
        command = [
            *torchrun_alone(n_processes, Path(meeting)),
            *("-m", "sicsrec.training.peer", str(folder), str(work), device_type),
            f"file://{meeting}/group",
        ]
        yield _Prepared(command, loopback_interface())


def _last_lines(folder: Path, n_hosts: int) -> str:
    parts = []
    for path in (log_path(folder, host) for host in range(n_hosts)):
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            parts.append("\n".join([f"{path}:", *lines[-_LINES_OF_LOG:]]))
    return "\n".join(parts)
