"""The MLflow record of a pipeline run and of its steps."""

import hashlib
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run, task_run

from sicsrec.artifacts import canonical_json
from sicsrec.config import PipelineConfig
from sicsrec.runs import RunRegister, registers
from sicsrec.steps import Step
from sicsrec.steps.runner import OpenTracker, StepResult
from sicsrec.tracking import Tracker
from sicsrec.tracking.liveness import is_abandoned
from sicsrec.tracking.mlflow_store import MlflowStore, PipelineRun
from tasks.page import prefect_links
from tasks.process_end import sign_flow_run
from tasks.settings import Settings

KEEP_TAG = "sicsrec.keep"
"""Set to ``true`` on an MLflow run, of a pipeline or a step: ``sicsrec gc`` keeps its artifacts."""
_MAX_REPORT_METRICS = 200
_NOT_IN_NAMES = re.compile(r"[^\w ./-]", re.ASCII)
"""What MLflow does not take in the name of a metric."""


@dataclass(frozen=True)
class RunRecord:
    """What every task of one pipeline run is told beside configuration and references."""

    mlflow_run_id: str
    """The parent run; handed down, because nothing global says which run is meant."""
    mlflow_experiment_id: str
    """The experiment it belongs to."""
    steps: tuple[str, ...]
    """Names of the steps to run or reuse."""
    refresh: tuple[str, ...] = ()
    """Names of the steps that run even when they could be reused."""


@contextmanager
def recorded_run(
    name: str,
    config: PipelineConfig,
    steps: tuple[str, ...],
    refresh: tuple[str, ...],
    further_tags: Mapping[str, str] | None = None,
    preset: str = "",
) -> Iterator[RunRecord]:
    """Open the parent run of a pipeline run and end it with the block."""
    settings = Settings.from_environment()
    sign_flow_run()
    tags = {
        "dataset": config.dataset,
        "config_digest": config_digest(config),
        "prefect.flow_run_id": str(flow_run.id or ""),
        **prefect_links(),
        "git.commit": _git_commit(),
        "judge": config.sample_pairs.judge.kind if config.has_stage_one else "none",
        "text_encoder": _encoder_name(config, "text"),
        "image_encoder": _encoder_name(config, "image"),
        "protocol": f"{config.split.strategy}, "
        + ("seen items removed" if config.evaluate.remove_seen else "seen items kept"),
        **(further_tags or {}),
    }
    run = open_store().begin(config.dataset, name, flatten(config.model_dump(mode="json")), tags)
    _forget_killed(settings.store_root)
    register = RunRegister(settings.store_root, config.dataset)
    with run.closing(), register.recording(run.run_id, preset, steps[-1]):
        yield RunRecord(run.run_id, run.experiment_id, steps, refresh)


def open_step_record(config: PipelineConfig, run: RunRecord) -> OpenTracker:
    """Return what opens the child run of a step that really runs."""

    def open_tracker(step: Step, key: str) -> AbstractContextManager[Tracker]:
        section = getattr(config, step.name).model_dump(mode="json")
        params = flatten(section) | ({"seed": config.seed} if step.is_seeded else {})
        tags = {
            "dataset": config.dataset,
            "step": step.name,
            "step_version": str(step.version),
            "key": key,
            "prefect.task_run_id": str(task_run.id or ""),
            **prefect_links(),
        }
        return _attach(run).step(step.name, params, tags)

    return open_tracker


def record_step(result: StepResult, run: RunRecord) -> None:
    """Record a step's numbers: a reused step is linked, the final results go to the parent."""
    step = result.manifest.step
    root = Settings.from_environment().store_root
    RunRegister(root, result.manifest.dataset).note_step(
        run.mlflow_run_id, step, result.manifest.key
    )
    parent = _attach(run)
    made_by = result.manifest.tracking.get("mlflow_run_id", "")
    if result.was_reused:
        parent.link_reused(step, made_by)
    else:
        parent.log_report(made_by, report_metrics(result.report.content))
    if step == "evaluate":
        parent.log_metrics(final_metrics(result.report.content.get("results", [])))


def final_metrics(results: list[Mapping[str, Any]]) -> dict[str, float]:
    """Return the test and validation numbers of SICSRec from the result table.

    Example:
        >>> final_metrics([{"model": "SICSRec", "split": "test", "users": 3, "hr_at_10": 0.5}])
        {'test/hr_at_10': 0.5}
    """
    return {
        f"{row['split']}/{name}": float(value)
        for row in results
        if str(row["model"]).lower() == "sicsrec"
        for name, value in row.items()
        if isinstance(value, float)
    }


def report_metrics(content: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a report under ``report/``; lists are left to the tables."""
    numbers = {
        f"report/{_NOT_IN_NAMES.sub('_', name)}": float(value)
        for name, value in flatten(content).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return dict(list(numbers.items())[:_MAX_REPORT_METRICS])


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted names.

    Example:
        >>> flatten({"a": {"b": 1, "c": {"d": 2}}, "e": [3]})
        {'a.b': 1, 'a.c.d': 2, 'e': [3]}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def config_digest(config: PipelineConfig) -> str:
    """Return 16 hex digits that name a configuration."""
    content = canonical_json(config.model_dump(mode="json"))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _encoder_name(config: PipelineConfig, modality: str) -> str:
    source = config.encode_items.source
    if source.kind == "given":
        return "given" if getattr(source, modality) is not None else "none"
    encoder = getattr(config.align_encoders, f"{modality}_encoder")
    if encoder is None:
        return "none"
    return f"{encoder.library}:{encoder.model or 'architecture from the configuration'}"


def close_abandoned_records() -> None:
    """Close what killed runs of this host left open in MLflow, and take them off the register."""
    open_store().close_abandoned()
    _forget_killed(Settings.from_environment().store_root)


def _forget_killed(root: Path) -> None:
    for register in registers(root).values():
        for entry in register.killed():
            if is_abandoned(entry.process):
                register.forget(entry.id)


def runs_to_keep() -> set[str]:
    """Return the ids of the runs that somebody marked in MLflow as to be kept."""
    return open_store().marked_runs(KEEP_TAG)


def mark_removed(run_ids: Sequence[str]) -> None:
    """Note on the runs of steps that their artifacts are no longer in the store."""
    store = open_store()
    for run_id in run_ids:
        store.mark(run_id, {"artifact": "removed by sicsrec gc"})


def warm_up() -> None:
    """Open the store of the records, which takes seconds the first time."""
    open_store()


def open_store() -> MlflowStore:
    """Return the store of the records that the settings name."""
    settings = Settings.from_environment()
    return _store(settings.home, settings.mlflow_uri)


@lru_cache(maxsize=4)
def _store(home: Path, uri: str | None) -> MlflowStore:
    return MlflowStore(home, uri)


def _attach(run: RunRecord) -> PipelineRun:
    return open_store().attach(run.mlflow_run_id)


@lru_cache(maxsize=1)
def _git_commit() -> str:
    """Return the commit of the checkout this code runs from, empty for an installed package."""
    folder = Path(__file__).parents[1]
    if not (folder / ".git").exists():
        return ""
    done = subprocess.run(  # noqa: S603
        ["git", "-C", str(folder), "rev-parse", "HEAD"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()
