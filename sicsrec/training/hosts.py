"""Training on several hosts that share a folder.

The first host runs the pipeline. When one of its steps trains, it announces that in the shared
folder, waits until every other host has answered, and starts its processes; the others start theirs
(:func:`join_trainings`). A host takes part for as long as it sees the announcement touched, so it
does not outlive a first host that is gone, and what that left behind is never joined. What is
announced are names below the shared folder and numbers; every host makes its command itself.
"""

import importlib.metadata
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock
from pydantic import PositiveInt

from sicsrec.artifacts import resolve_inside
from sicsrec.cluster import Hosts
from sicsrec.config.base import Section
from sicsrec.errors import ArtifactError, ConfigError, DataError, TrainingProcessError
from sicsrec.repeating import repeated
from sicsrec.replacing import replace_json
from sicsrec.training.launching import (
    check_device,
    network_interface,
    started,
    torchrun_with_others,
    wait_a_little,
)

logger = logging.getLogger(__name__)

_ANNOUNCEMENT = "announcement.json"
_SECONDS_BETWEEN_BEATS = 1.0
_SECONDS_BETWEEN_LOOKS = 0.5
_SILENCE = 60.0
"""Seconds without a beat after which the first host counts as gone."""
_GRACE = 10.0
"""Seconds to end by themselves for processes whose training is announced no more."""
_PATIENCE = 600.0
"""Seconds the first host waits for the others."""


class Announcement(Section):
    """A training that hosts may take part in."""

    job: str
    """Folder of the job, relative to the shared one."""
    work: str
    """Folder of the checkpoint, likewise."""
    device: Literal["cpu", "cuda"]
    n_processes: PositiveInt
    """On every host."""
    n_hosts: PositiveInt
    address: str
    port: PositiveInt
    versions: dict[str, str]

    @classmethod
    def make(
        cls, hosts: Hosts, job: Path, work: Path, device: str, n_processes: int
    ) -> "Announcement":
        """Announce the job in one folder with the checkpoint in another.

        Raises:
            ConfigError: if they do not lie in the folder that the hosts share.
        """
        shared = hosts.folder.resolve()
        for path in (job, work):
            if not path.resolve().is_relative_to(shared):
                raise ConfigError(
                    f"several hosts train in {shared}, which they share, not in {path}"
                )
        return cls.model_validate(
            {
                "job": job.resolve().relative_to(shared).as_posix(),
                "work": work.resolve().relative_to(shared).as_posix(),
                "device": device,
                "n_processes": n_processes,
                "n_hosts": hosts.n_hosts,
                "address": hosts.address,
                "port": hosts.port,
                "versions": installed_versions(),
            }
        )

    @classmethod
    def read(cls, path: Path) -> "Announcement":
        """Read an announcement.

        Raises:
            DataError: if the file is none.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as err:
            raise DataError(f"{path} is no announcement of a training: {err}") from err


def installed_versions() -> dict[str, str]:
    """Return the versions that must be the same on all hosts."""
    return {name: importlib.metadata.version(name) for name in ("sicsrec", "torch")}


def board_of(folder: Path) -> Path:
    """Return where trainings are announced in a shared folder."""
    return folder / "trainings"


@contextmanager
def announced(
    hosts: Hosts, announcement: Announcement, patience: float = _PATIENCE
) -> Iterator[None]:
    """Wait until all other hosts take part, and let them know that this one lives in the block.

    One training at a time: they meet at one address.

    Raises:
        TrainingProcessError: if a host cannot take part or does not answer; says what to do.
    """
    board = board_of(hosts.folder)
    board.mkdir(parents=True, exist_ok=True)
    with FileLock(board / ".lock"):
        for left in filter(Path.is_dir, list(board.iterdir())):
            # Whoever held the lock and did not clear this is gone, maybe before it announced.
            shutil.rmtree(left, ignore_errors=True)
        own = board / uuid.uuid4().hex
        own.mkdir()
        try:
            path = own / _ANNOUNCEMENT
            replace_json(path, announcement.model_dump())
            # From a thread: a block that is held up is not dead.
            with repeated(lambda: _beat(path), _SECONDS_BETWEEN_BEATS, "announcement"):
                _wait_for_answers(own, hosts.n_hosts, patience)
                yield
        finally:
            shutil.rmtree(own, ignore_errors=True)


def _beat(path: Path) -> None:
    # A folder that cannot be reached for a moment is no reason to end hours of training.
    with suppress(OSError):
        os.utime(path)


def _answer_path(training: Path, host: int) -> Path:
    return training / f"host-{host}.json"


def _wait_for_answers(training: Path, n_hosts: int, patience: float) -> None:
    missing = set(range(1, n_hosts))
    commands = ", ".join(f"`sicsrec join --host {host}`" for host in sorted(missing))
    logger.info("waiting for the other hosts: %s, with this SICSREC_HOME", commands)
    deadline = time.monotonic() + patience
    while missing:
        for host in sorted(missing):
            path = _answer_path(training, host)
            if not path.exists():
                continue
            error = json.loads(path.read_text(encoding="utf-8"))["error"]
            if error:
                raise TrainingProcessError(f"host {host} cannot take part in training: {error}")
            missing.remove(host)
        if missing and time.monotonic() > deadline:
            names = ", ".join(map(str, sorted(missing)))
            raise TrainingProcessError(
                f"within {patience:.0f} seconds host {names} of 0 to {n_hosts - 1} did not take "
                "part in training; run `sicsrec join --host NUMBER` on each, with SICSREC_HOME at "
                "the folder that all of them share, and start this run again"
            )
        if missing:
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def log_path(job: Path, host: int) -> Path:
    """Return the file of what one host's processes say."""
    return job / f"processes-{host}.log"


def join_trainings(folder: Path, host: int, tell: Callable[[str], None]) -> None:
    """Take part in every training that is announced, until interrupted.

    Args:
        folder: what the hosts share.
        host: number of this one, from 1.
        tell: receives a line about everything that happens, for people.

    Raises:
        ConfigError: if the first host is no other one.
    """
    if host < 1:
        raise ConfigError(f"the host that runs the pipeline is 0, others count from 1, not {host}")
    board = board_of(folder)
    beats: dict[str, int] = {}
    known: set[str] = set()
    while True:
        for path in sorted(board.glob(f"*/{_ANNOUNCEMENT}")):
            name = path.parent.name
            beat = _beat_of(path)
            # An announcement that stands still is what a host that is gone left behind.
            if name in known or beat is None or beats.setdefault(name, beat) == beat:
                continue
            known.add(name)
            tell(_take_part(folder, path, host, tell))
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _beat_of(path: Path) -> int | None:
    """Return when an announcement was touched, by the clock of who keeps the files.

    None where it is gone, or the folder that all hosts see answers with an error for a moment.
    """
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _take_part(folder: Path, path: Path, host: int, tell: Callable[[str], None]) -> str:
    """Take part in one training and return how that ended."""
    answer = _answer_path(path.parent, host)
    try:
        announcement = Announcement.read(path)
        job = resolve_inside(folder, announcement.job)
        work = resolve_inside(folder, announcement.work)
        _check(announcement, job, host)
        interface = network_interface(announcement.address, announcement.port)
        output = log_path(job, host).open("wb")
    except (ArtifactError, ConfigError, DataError, OSError) as err:
        _say(answer, str(err))
        return f"cannot take part: {err}"
    tell(f"training in {announcement.job}, {announcement.n_processes} processes here")
    command = peer_command(announcement, host, job, work)
    with (
        output,
        started(
            command, output, n_processes=announcement.n_processes, interface=interface
        ) as process,
    ):
        _say(answer, "")
        beat, heard = _beat_of(path), time.monotonic()
        while process.poll() is None:
            wait_a_little(process, _SECONDS_BETWEEN_LOOKS)
            found = _beat_of(path)
            if found is not None and found != beat:
                beat, heard = found, time.monotonic()
            elif time.monotonic() - heard > (_GRACE if found is None else _SILENCE):
                return "the first host has ended the training or is gone; ended"
    return "done" if process.returncode == 0 else f"ended with status {process.returncode}"


def _say(answer: Path, error: str) -> None:
    """Answer an announcement: why this host cannot take part, or nothing."""
    # The first host may have given up in the meantime, and its announcement be gone.
    with suppress(OSError):
        replace_json(answer, {"error": error})


def peer_command(announcement: Announcement, host: int, job: Path, work: Path) -> list[str]:
    """Return what one host starts, to train with the others."""
    torchrun = torchrun_with_others(
        announcement.n_processes,
        host=host,
        n_hosts=announcement.n_hosts,
        address=announcement.address,
        port=announcement.port,
    )
    peer = ("-m", "sicsrec.training.peer", str(job), str(work), announcement.device, "env://")
    return [*torchrun, *peer]


def _check(announcement: Announcement, job: Path, host: int) -> None:
    if host >= announcement.n_hosts:
        raise ConfigError(
            f"there are hosts 0 to {announcement.n_hosts - 1}, this one is {host}; set "
            "SICSREC_HOSTS where the pipeline runs to the number of hosts"
        )
    if (own := installed_versions()) != announcement.versions:
        raise ConfigError(f"it has {own}, the first host {announcement.versions}; install the same")
    if not job.is_dir():
        raise ConfigError(
            f"it does not see {job}; SICSREC_HOME must be one folder that all hosts share"
        )
    check_device(torch.device(announcement.device), announcement.n_processes)
