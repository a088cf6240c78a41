"""What Prefect, MLflow and the store cost on ``demo``, beside the steps themselves.

Whole flows with a server of their own and a store of records in SQLite. The functions of the steps
and the one that builds the report are clocked: they are what a program takes that calls them
directly. All else is overhead, and comes in three parts:

- the clock of the flow's own thread, from the call of the flow to its return, less these functions:
  tasks, locks, keys, digests, commits, registration of the model, waiting for records;
- the processor time of the thread that draws pictures and writes records;
- the processor time of Prefect's server.

Where the machine has a core that the steps leave idle, a run is longer by the first part alone.
Where the steps keep all cores busy, it is longer by all three at most. Whole flows are not compared
with bare calls of the functions: the same training was seen to take between 25 and 35 seconds on a
machine that did nothing else, which hides what is asked for. The first flow, which imports what the
others find, does not count; of the others the median is reported.

Run with ``pytest -o addopts= -m bench -s tests/benchmarks/bench_overhead.py``, without the checks
of types and shapes that tests make in every call.
"""

import importlib
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.testing.utilities import prefect_test_harness

from flows.pipeline import sicsrec
from sicsrec.steps import STEP_NAMES
from sicsrec.tracking.mlflow_store import MlflowStore
from sicsrec.tracking.outbox import Outbox

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

MAX_SECONDS_PER_STEP = 1.0
MAX_SHARE = 0.05
N_FLOWS = 5

FUNCTIONS = {
    **{name: (f"sicsrec.steps.{name}", "run") for name in STEP_NAMES},
    "report": ("sicsrec.report.build", "build_report"),
}
THREAD, RECORDS, SERVER = "the flow's own thread", "records and pictures", "Prefect's server"

Seconds = dict[str, float]


def clocked(
    seconds: Seconds, name: str, function: Callable[..., Any], clock: Callable[[], float]
) -> Callable[..., Any]:
    """Return a function that adds the seconds of every call to those of a name."""

    def run(*arguments: Any, **named: Any) -> Any:
        started = clock()
        try:
            return function(*arguments, **named)
        finally:
            seconds[name] += clock() - started

    return run


def time_of_children() -> float:
    """Return the seconds of processor time of the processes that this one started."""
    children = psutil.Process().children(recursive=True)
    times = [child.cpu_times() for child in children]
    return sum(found.user + found.system for found in times)


def run_flow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Seconds:
    """Return the seconds of every function, and of the three parts of the overhead."""
    seconds: Seconds = defaultdict(float)
    monkeypatch.setenv("SICSREC_HOME", str(folder))
    # Makes the database, which is once for all runs.
    MlflowStore(folder)
    for name, (module_name, function) in FUNCTIONS.items():
        module = importlib.import_module(module_name)
        run = clocked(seconds, name, getattr(module, function), time.perf_counter)
        monkeypatch.setattr(module, function, run)
    send = clocked(seconds, RECORDS, Outbox._send_all, time.thread_time)
    monkeypatch.setattr(Outbox, "_send_all", send)
    of_server, started = time_of_children(), time.perf_counter()
    sicsrec()
    whole = time.perf_counter() - started
    seconds[THREAD] = whole - sum(seconds[name] for name in FUNCTIONS)
    return {**seconds, SERVER: time_of_children() - of_server, "whole": whole}


def test_overhead_of_flow_records_and_store(tmp_path: Path) -> None:
    found = []
    with prefect_test_harness(server_startup_timeout=120):
        for number in range(N_FLOWS):
            with pytest.MonkeyPatch.context() as monkeypatch:
                found.append(run_flow(tmp_path / f"{number}", monkeypatch))
    names = (*FUNCTIONS, THREAD, RECORDS, SERVER, "whole")
    lines = [f"{'seconds':<24}{'median':>8}   every flow"]
    medians = {}
    for name in names:
        medians[name] = statistics.median(seconds[name] for seconds in found[1:])
        each = ", ".join(f"{seconds[name]:.2f}" for seconds in found)
        lines.append(f"{name:<24}{medians[name]:>8.2f}   {each}")
    overheads = {
        "with a core to spare": medians[THREAD],
        "without one": sum(medians[name] for name in (THREAD, RECORDS, SERVER)),
    }
    # What the flow's own thread waits for is in the whole already, the rest only in part.
    bare = sum(medians[name] for name in FUNCTIONS)
    shares = {where: overhead / (bare + overhead) for where, overhead in overheads.items()}
    lines += [
        f"overhead {where}: {overhead:.2f} s, {overhead / len(STEP_NAMES):.2f} s per step, "
        f"{shares[where]:.1%} of the run"
        for where, overhead in overheads.items()
    ]
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert max(overheads.values()) / len(STEP_NAMES) < MAX_SECONDS_PER_STEP
    assert max(shares.values()) < MAX_SHARE
