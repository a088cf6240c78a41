"""Which process made a record, and whether that process still lives."""

import os
import socket
from collections.abc import Collection, Mapping
from pathlib import Path

import psutil

HOST_TAG = "sicsrec.host"
PID_TAG = "sicsrec.pid"
STARTED_TAG = "sicsrec.process_started"

_TICKS = 19
"""Place of ``starttime`` among what follows the brackets in ``/proc/<pid>/stat``."""


def process_tags() -> dict[str, str]:
    """Return tags that name this process among all processes this host ever had."""
    return {
        HOST_TAG: socket.gethostname(),
        PID_TAG: str(os.getpid()),
        STARTED_TAG: _start_of(os.getpid()),
    }


def is_abandoned(tags: Mapping[str, str], gone: Collection[Mapping[str, str]] = ()) -> bool:
    """Whether the tags name a process that is gone.

    Of other hosts that is known of the processes in ``gone`` alone, see
    :func:`sicsrec.runs.killed_processes`; records without tags are never called abandoned. Two
    containers of one host name would take each other's for their own.
    """
    if {name: tags.get(name) for name in (HOST_TAG, PID_TAG, STARTED_TAG)} in gone:
        return True
    if tags.get(HOST_TAG) != socket.gethostname() or not tags.get(PID_TAG, "").isdigit():
        return False
    pid, started = int(tags[PID_TAG]), tags.get(STARTED_TAG)
    try:
        # A process id is given out again after a while; the start tells the two apart.
        return started not in (_start_of(pid), _time_of_start(pid))
    except psutil.NoSuchProcess:
        return True


def _start_of(pid: int) -> str:
    """Name the moment a process started, by a name that setting the clock does not change.

    Linux tells the time of day at which a process started by that of its own start, which moves
    with the clock, so this is the boot and the ticks since; elsewhere it is the time of day.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # What the program is called stands in brackets and may hold anything.
        of_process = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return _time_of_start(pid)
    return f"{boot} {of_process[_TICKS].decode()}"


def _time_of_start(pid: int) -> str:
    return f"{psutil.Process(pid).create_time():.2f}"
