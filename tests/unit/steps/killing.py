"""Processes that are killed while they hang in a step."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

# The server has loaded torch, so that each process it forks starts at once.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["tests.unit.steps.stage_one_store", "tests.unit.steps.stage_two_store"]
)


def hanging_mark(root: Path) -> Path:
    """Return the file by which a process says that it hangs."""
    return root / "hanging"


def kill_when_hanging(run_until: Callable[..., None], root: Path, *arguments: object) -> None:
    """Call ``run_until(root, *arguments)`` in a process, and kill it once it hangs."""
    mark = hanging_mark(root)
    process = PROCESSES.Process(target=run_until, args=(root, *arguments))
    process.start()
    deadline = time.monotonic() + 300
    while not mark.exists():
        assert process.exitcode is None, "it ended without reaching the moment"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    mark.unlink()
