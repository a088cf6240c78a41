"""What Prefect, MLflow and the store cost on ``demo``, beside the steps themselves.

Twice in turn, in one process: the functions of all steps and the one that builds the report, with
nothing recorded and the clock read around them alone, which is what a program takes that calls them
directly; and the whole flow, from its call to its return. The quicker of the two counts on either
side. All the difference is overhead: the flow and its tasks, locks, keys, digests and commits, what
is recorded in MLflow, pictures included, what the thread that records takes away from a step that
computes, and the registration of the model.

Run with ``pytest -o addopts= -m bench -s tests/benchmarks/bench_overhead.py`` on a machine that
does nothing else: without the checks of types and shapes that tests make in every call.
"""

import importlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prefect.testing.utilities import prefect_test_harness

from flows.configuration import resolve_config
from flows.pipeline import sicsrec
from sicsrec.artifacts import ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.report.build import build_report
from sicsrec.steps import STEPS
from sicsrec.steps.runner import run_step
from sicsrec.tracking.mlflow_store import MlflowStore
from tasks import registration
from tasks.outcome import RunOutcome

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

MAX_SECONDS_PER_STEP = 1.0
MAX_SHARE = 0.05
N_ROUNDS = 2

Seconds = dict[str, float]


def clock(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, seconds: Seconds, label: str
) -> None:
    """Add the seconds of every call of a function to ``seconds[label]``."""
    function: Callable[..., Any] = getattr(owner, name)

    def clocked(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            seconds[label] += time.perf_counter() - started

    monkeypatch.setattr(owner, name, clocked)


def call_directly(config: PipelineConfig, folder: Path) -> Seconds:
    """Return what the functions of the steps and the report take with nothing recorded."""
    seconds: Seconds = defaultdict(float)
    store, refs = ArtifactStore(folder / "artifacts"), {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        for step in STEPS:
            module = importlib.import_module(f"sicsrec.steps.{step.name}")
            clock(monkeypatch, module, "run", seconds, step.name)
            refs |= run_step(step.name, config, refs, store).refs
    build = partial(build_report, refs, store, folder / "reports")
    started = time.perf_counter()
    build()
    return {**seconds, "report": time.perf_counter() - started}


def run_flow(folder: Path) -> tuple[RunOutcome, float, Seconds]:
    """Return how the flow ended, its seconds, and those of parts of it."""
    seconds: Seconds = defaultdict(float)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("SICSREC_HOME", str(folder))
        MlflowStore(folder)
        clock(monkeypatch, registration, "_register", seconds, "registration")
        for step in STEPS:
            module = importlib.import_module(f"sicsrec.steps.{step.name}")
            clock(monkeypatch, module, "run", seconds, step.name)
        started = time.perf_counter()
        outcome: RunOutcome = sicsrec()
        return outcome, time.perf_counter() - started, seconds


def test_overhead_of_flow_records_and_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SICSREC_HOME", str(tmp_path / "none"))
    config = resolve_config("demo").config
    direct, flows = [], []
    with prefect_test_harness(server_startup_timeout=120):
        for number in range(N_ROUNDS):
            direct.append(call_directly(config, tmp_path / f"direct {number}"))
            flows.append(run_flow(tmp_path / f"flow {number}"))
    itself = min(direct, key=lambda seconds: sum(seconds.values()))
    outcome, whole, parts = min(flows, key=lambda flow: flow[1])
    lines = [f"{'step':<16}{'direct':>10}{'in the flow':>14}{'task':>8}"]
    lines += [
        f"{step.name:<16}{itself[step.name]:>10.2f}{parts[step.name]:>14.2f}{step.seconds:>8.2f}"
        for step in outcome.steps
    ]
    lines.append(f"the report itself: {itself['report']:.2f} s")
    lines.append(f"registration of the model: {parts['registration']:.2f} s")
    for name, rounds in (
        ("direct", [sum(seconds.values()) for seconds in direct]),
        ("flow", [seconds for _, seconds, _ in flows]),
    ):
        lines.append(f"{name}, every round: {', '.join(f'{entry:.2f} s' for entry in rounds)}")
    overhead = whole - sum(itself.values())
    per_step, share = overhead / len(outcome.steps), overhead / whole
    lines.append(
        f"overhead {overhead:.2f} s of {whole:.2f} s: {per_step:.2f} s per step, {share:.1%}"
    )
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert per_step < MAX_SECONDS_PER_STEP
    assert share < MAX_SHARE
