"""How much of the machine is this process's to use."""

import os
import sys


def usable_cores() -> int:
    """Return how many processor cores this process may use, at least 1.

    Fewer than the machine has where a process is pinned to some of them, and where a container may
    use only so much of their time (``docker run --cpus``, a limit of Kubernetes); parts of a core
    count as one.
    """
    # Loaded when it is asked for: most commands do not ask.
    from joblib import cpu_count

    return int(cpu_count())


def keep_torch_to_usable_cores() -> None:
    """Let torch compute in no more threads than there are cores to use.

    OpenMP goes by the cores it is pinned to and does not know of a limit of time: its threads then
    take that from each other while they wait for each other. What OMP_NUM_THREADS says stays, and
    so does a process that has not loaded torch.
    """
    torch = sys.modules.get("torch")
    if torch is None or "OMP_NUM_THREADS" in os.environ:
        return
    n_cores = usable_cores()
    if torch.get_num_threads() > n_cores:
        torch.set_num_threads(n_cores)
