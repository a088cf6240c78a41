"""What Prefect, MLflow and the store cost on ``demo``, beside the steps themselves.

One run of the flow, with the clock read around the function of every step and around the one that
builds the report: those are what a program calls that calls them directly. All the time around them
is overhead: the flow and its tasks, locks, keys, digests and commits, and the registration of the
model. So is handing over what is recorded from within them. For that a run waits, and that is held
against the bar.

A thread draws the pictures and sends everything to MLflow meanwhile. What it takes away from a step
that computes is told as its processor time, which is the most it can be. Two separate runs, with
and without all that, differ by more than what is measured.

Run with ``pytest -o addopts= -m bench -s tests/benchmarks/bench_overhead.py``: without the checks
of types and shapes that tests make in every call.
"""

import importlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.testing.utilities import prefect_test_harness

import tasks.report
from flows.pipeline import sicsrec
from sicsrec.steps import STEP_NAMES, STEPS
from sicsrec.tracking.mlflow_store import MlflowStore, MlflowTracker
from sicsrec.tracking.outbox import Outbox
from tasks import registration
from tasks.outcome import RunOutcome

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

MAX_SECONDS_PER_STEP = 1.0
MAX_SHARE = 0.05

Seconds = dict[str, float]


def clock(
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    seconds: Seconds,
    label: str,
    now: Callable[[], float] = time.perf_counter,
) -> None:
    """Add the seconds of every call of a function to ``seconds[label]``."""
    function: Callable[..., Any] = getattr(owner, name)

    def clocked(*arguments: Any, **named: Any) -> Any:
        started = now()
        try:
            return function(*arguments, **named)
        finally:
            seconds[label] += now() - started

    monkeypatch.setattr(owner, name, clocked)


def test_overhead_of_flow_records_and_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    itself: Seconds = defaultdict(float)
    parts: Seconds = defaultdict(float)
    for step in STEPS:
        module = importlib.import_module(f"sicsrec.steps.{step.name}")
        clock(monkeypatch, module, "run", itself, step.name)
    clock(monkeypatch, tasks.report, "build_page", itself, "report")
    for name in ("log_metrics", "log_table", "log_figure", "set_tags"):
        clock(monkeypatch, MlflowTracker, name, parts, "handing over")
    clock(monkeypatch, Outbox, "_try", parts, "sending", time.thread_time)
    clock(monkeypatch, registration, "_register", parts, "registration")
    with prefect_test_harness(server_startup_timeout=120):
        for folder, until in (("first touch", "split"), ("measured", None)):
            MlflowStore(tmp_path / folder)
            monkeypatch.setenv("SICSREC_HOME", str(tmp_path / folder))
            itself.clear()
            parts.clear()
            started = time.perf_counter()
            outcome: RunOutcome = sicsrec(until=until)
            whole = time.perf_counter() - started
    around = whole - sum(itself.values())
    overhead = around + parts["handing over"]
    lines = [f"{'step':<16}{'function':>10}{'task':>8}{'adds':>8}"]
    for step in outcome.steps:
        own = itself[step.name]
        lines.append(f"{step.name:<16}{own:>10.2f}{step.seconds:>8.2f}{step.seconds - own:>8.2f}")
    lines.append(f"the report itself: {itself['report']:.2f} s")
    lines.append(
        f"around the functions: {around:.2f} s, registration {parts['registration']:.2f} s"
    )
    lines.append(f"records handed over within them: {parts['handing over']:.2f} s")
    lines.append(f"processor time of drawing and sending them: {parts['sending']:.2f} s")
    per_step, share = overhead / len(STEP_NAMES), overhead / whole
    most = (overhead + parts["sending"]) / whole
    lines.append(
        f"whole run {whole:.2f} s; overhead {overhead:.2f} s, {per_step:.2f} s per step, "
        f"{share:.1%}; at most {most:.1%} with all that the thread takes"
    )
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert per_step < MAX_SECONDS_PER_STEP
    assert share < MAX_SHARE
