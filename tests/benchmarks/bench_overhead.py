"""What Prefect, MLflow and the store cost on ``demo``, beside the steps themselves.

One run of the flow, with the clock read around the function of every step and around the one that
builds the report: what those take is what a program takes that calls them directly. All else is
overhead: the flow and its tasks, locks, keys, digests and commits, and what is recorded in MLflow,
pictures included; calls that record from within a step are clocked as well. Two separate runs would
differ by more than what is measured.

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
from sicsrec.steps import STEP_NAMES
from sicsrec.tracking.mlflow_store import MlflowStore, MlflowTracker
from tasks.outcome import RunOutcome

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

MAX_SECONDS_PER_STEP = 1.0
MAX_SHARE = 0.05


def clocked(function: Callable[..., Any], add: Callable[[float], None]) -> Callable[..., Any]:
    """Return ``function`` with its seconds given to ``add``."""

    def wrapper(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            add(time.perf_counter() - started)

    return wrapper


def test_overhead_of_flow_records_and_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_steps: dict[str, float] = defaultdict(float)
    in_records = 0.0
    built: list[float] = []

    def recorded(seconds: float) -> None:
        nonlocal in_records
        in_records += seconds

    for name in ("log_metrics", "log_table", "log_figure", "set_tags"):
        monkeypatch.setattr(MlflowTracker, name, clocked(getattr(MlflowTracker, name), recorded))
    for name in STEP_NAMES:
        module = importlib.import_module(f"sicsrec.steps.{name}")

        def add(seconds: float, name: str = name) -> None:
            in_steps[name] += seconds

        monkeypatch.setattr(module, "run", clocked(module.run, add))
    monkeypatch.setattr(
        tasks.report, "build_page", clocked(tasks.report.build_page, lambda s: built.append(s))
    )
    with prefect_test_harness(server_startup_timeout=120):
        for folder, until in (("first touch", "split"), ("measured", None)):
            MlflowStore(tmp_path / folder)
            monkeypatch.setenv("SICSREC_HOME", str(tmp_path / folder))
            in_steps.clear()
            built.clear()
            in_records = 0.0
            started = time.perf_counter()
            outcome: RunOutcome = sicsrec(until=until)
            whole = time.perf_counter() - started
    lines = [f"{'step':<16}{'function':>10}{'task':>8}{'adds':>8}"]
    for step in outcome.steps:
        itself = in_steps[step.name]
        lines.append(
            f"{step.name:<16}{itself:>10.2f}{step.seconds:>8.2f}{step.seconds - itself:>8.2f}"
        )
    overhead = whole - sum(in_steps.values()) - sum(built) + in_records
    per_step, share = overhead / len(outcome.steps), overhead / whole
    lines.append(f"the report itself: {sum(built):.2f} s")
    lines.append(f"records made within the functions of steps: {in_records:.2f} s")
    lines.append(f"whole run {whole:.2f} s; overhead {per_step:.2f} s per step, {share:.1%}")
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert per_step < MAX_SECONDS_PER_STEP
    assert share < MAX_SHARE
