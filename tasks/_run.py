"""What all tasks share: store, record and progress of one step, and its Prefect state."""

import time
from functools import partial
from typing import Any, cast

from prefect import Task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed

from sicsrec.artifacts import ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.errors import BackendUnavailableError
from sicsrec.steps.runner import StepResult, run_step
from tasks.cluster import open_cluster
from tasks.outcome import Refs, StepOutcome, current_observer
from tasks.record import RunRecord, git_commit, open_step_record, record_step
from tasks.settings import Settings, read_secret


def call_step(name: str, config: PipelineConfig, refs: Refs, run: RunRecord) -> StepOutcome:
    """Run or reuse one step and turn the result into a Prefect state that carries the outcome.

    Declared as the outcome because that is what the state gives when asked for its result.
    """
    started = time.monotonic()
    settings = Settings.from_environment()
    observer = current_observer()
    observer.started(name)
    store = ArtifactStore(settings.store_root)
    result = run_step(
        name,
        config,
        refs,
        store,
        refresh=name in run.refresh,
        open_tracker=open_step_record(config, refs, run),
        progress=observer.progress,
        device=settings.device,
        n_processes=settings.n_processes,
        open_cluster=partial(open_cluster, settings.dask),
        read_secret=read_secret,
        code={"git_commit": git_commit()} if git_commit() else None,
    )
    record_step(result, config, run)
    manifest = result.manifest
    outcome = StepOutcome(
        name=name,
        was_reused=result.was_reused,
        rows=result.report.rows,
        rows_of=result.report.rows_of,
        seconds=round(time.monotonic() - started, 2),
        key=manifest.key,
        n_bytes=manifest.n_bytes,
        refs=result.refs,
        folder=str(store.folder(manifest.dataset, name, manifest.key)),
    )
    observer.ended(outcome)
    _publish(outcome, result)
    state: State[StepOutcome] = Completed(
        name="Cached" if result.was_reused else "Completed",
        message=f"{outcome.rows} {outcome.rows_of}, key {outcome.key}",
        data=outcome,
    )
    return cast("StepOutcome", state)


def is_worth_a_retry(task: Task[Any, Any], task_run: TaskRun, state: State) -> bool:
    """Whether a failed step may succeed at once: only when a judge could not be reached."""
    del task, task_run
    error = state.result(raise_on_failure=False)
    return isinstance(error, BackendUnavailableError)


def _publish(outcome: StepOutcome, result: StepResult) -> None:
    made_by = result.manifest.tracking.get("mlflow_run_id", "none")
    how = "reused" if outcome.was_reused else "ran"
    digests = "\n".join(
        f"| {name} | `{entry.digest[:16]}` | {', '.join(entry.sees) or 'nothing'} |"
        for name, entry in result.manifest.outputs.items()
    )
    create_markdown_artifact(
        key=outcome.name.replace("_", "-"),
        description=f"{outcome.name}: {how}, {outcome.rows} {outcome.rows_of}",
        markdown=(
            f"## {outcome.name}: {how}\n\n"
            f"| | |\n|---|---|\n| {outcome.rows_of} | {outcome.rows} |\n"
            f"| seconds, this time | {outcome.seconds} |\n"
            f"| seconds, when made | {result.manifest.seconds} |\n"
            f"| bytes | {outcome.n_bytes} |\n| key | `{outcome.key}` |\n"
            f"| folder | `{outcome.folder}` |\n| MLflow run | `{made_by}` |\n\n"
            f"| output | digest | has seen of the log |\n|---|---|---|\n{digests}\n"
        ),
    )
