"""What Prefect, MLflow and the store cost on ``demo``, beside the steps themselves.

In turn, in one process: the functions of all steps and the one that builds the report, with nothing
recorded and the clock read around them alone, which is what a program takes that calls them
directly; and the whole flow, from its call to its return. The medians count; the first round, which
imports what the others find, does not. All the difference is overhead: the flow and its tasks,
locks, keys, digests and commits, what is recorded in MLflow, pictures included, what the thread
that draws and sends them takes away from a step that computes, and the registration of the model.

Measured twice: with one thread to the steps, which leaves the other cores to the server and to the
records, and with as many threads as there are cores, where whatever else runs takes time from the
steps.

Run with ``pytest -o addopts= -m bench -s tests/benchmarks/bench_overhead.py`` on a machine that
does nothing else, twenty minutes on two cores: without the checks of types and shapes that tests
make in every call.
"""

import importlib
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from prefect.testing.utilities import prefect_test_harness

from flows.configuration import resolve_config
from flows.pipeline import sicsrec
from sicsrec.artifacts import ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.report.build import build_report
from sicsrec.steps import STEP_NAMES
from sicsrec.steps.runner import run_step
from sicsrec.tracking.mlflow_store import MlflowStore

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

MAX_SECONDS_PER_STEP = 1.0
MAX_SHARE = 0.05
N_ROUNDS = 5

Seconds = dict[str, float]


def clock_steps(monkeypatch: pytest.MonkeyPatch, seconds: Seconds) -> None:
    """Add the seconds of every call of a step's function to those of the step."""

    def clocked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                seconds[name] += time.perf_counter() - started

        return run

    for name in STEP_NAMES:
        module = importlib.import_module(f"sicsrec.steps.{name}")
        monkeypatch.setattr(module, "run", clocked(name, module.run))


def call_directly(config: PipelineConfig, folder: Path) -> Seconds:
    """Return what the functions of the steps and the report take with nothing recorded."""
    seconds: Seconds = defaultdict(float)
    store, refs = ArtifactStore(folder / "artifacts"), {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        clock_steps(monkeypatch, seconds)
        for name in STEP_NAMES:
            refs |= run_step(name, config, refs, store).refs
    started = time.perf_counter()
    build_report(refs, store, folder / "reports")
    return {**seconds, "report": time.perf_counter() - started}


def run_flow(folder: Path) -> Seconds:
    """Return what the functions of the steps take in the flow and, as ``around``, all else."""
    seconds: Seconds = defaultdict(float)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("SICSREC_HOME", str(folder))
        MlflowStore(folder)
        clock_steps(monkeypatch, seconds)
        started = time.perf_counter()
        sicsrec()
        whole = time.perf_counter() - started
    return {**seconds, "around": whole - sum(seconds.values())}


@pytest.fixture
def n_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Threads of the steps' computations."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("n_threads", sorted({1, os.cpu_count() or 1}), indirect=True)
def test_overhead_of_flow_records_and_store(
    n_threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SICSREC_HOME", str(tmp_path / "none"))
    config = resolve_config("demo").config
    rounds: dict[str, list[Seconds]] = {"direct": [], "flow": []}
    with prefect_test_harness(server_startup_timeout=120):
        for number in range(N_ROUNDS):
            rounds["direct"].append(call_directly(config, tmp_path / f"direct {number}"))
            rounds["flow"].append(run_flow(tmp_path / f"flow {number}"))
    lines = [f"{n_threads} threads", f"{'medians':<16}{'direct':>10}{'flow':>10}"]
    for name in (*STEP_NAMES, "report", "around"):
        medians = [
            f"{statistics.median(seconds.get(name, 0.0) for seconds in those[1:]):>10.2f}"
            for those in rounds.values()
        ]
        lines.append(f"{name:<16}{''.join(medians)}")
    totals = {side: [sum(seconds.values()) for seconds in those] for side, those in rounds.items()}
    lines += [
        f"{side}, every round: {', '.join(f'{seconds:.2f} s' for seconds in those)}"
        for side, those in totals.items()
    ]
    direct, whole = (statistics.median(those[1:]) for those in totals.values())
    overhead = whole - direct
    per_step, share = overhead / len(STEP_NAMES), overhead / whole
    lines.append(
        f"overhead {overhead:.2f} s of {whole:.2f} s: {per_step:.2f} s per step, {share:.1%}"
    )
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert per_step < MAX_SECONDS_PER_STEP
    assert share < MAX_SHARE
