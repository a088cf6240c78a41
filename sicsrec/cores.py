"""How much of the machine is this process's to use."""

import os


def usable_cores() -> int:
    """Return how many processor cores this process may use.

    Of a machine that several containers share these are fewer than it has, where the containers
    are pinned to some of them.
    """
    # Not every system tells which cores a process may use.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
