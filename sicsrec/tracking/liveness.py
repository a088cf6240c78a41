"""Which process made a record, and whether that process still lives."""

import os
import socket
from collections.abc import Mapping

import psutil

HOST_TAG = "sicsrec.host"
PID_TAG = "sicsrec.pid"
STARTED_TAG = "sicsrec.process_started"


def process_tags() -> dict[str, str]:
    """Return tags that name this process among all processes this host ever had."""
    return {
        HOST_TAG: socket.gethostname(),
        PID_TAG: str(os.getpid()),
        STARTED_TAG: f"{psutil.Process().create_time():.2f}",
    }


def is_abandoned(tags: Mapping[str, str]) -> bool:
    """Whether the tags name a process of this host that is gone.

    Records of other hosts, and records without tags, are never called abandoned: nothing is known
    of their processes. Two containers of one host name would take each other's for their own.
    """
    if tags.get(HOST_TAG) != socket.gethostname() or not tags.get(PID_TAG, "").isdigit():
        return False
    try:
        started = psutil.Process(int(tags[PID_TAG])).create_time()
    except psutil.NoSuchProcess:
        return True
    # A process id is given out again after a while; the time of start tells the two apart.
    return f"{started:.2f}" != tags.get(STARTED_TAG)
