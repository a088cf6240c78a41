"""What all tasks share: store, record and progress of one step, and its Prefect state."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, cast

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.concurrency.sync import concurrency
from prefect.runtime import deployment
from prefect.states import Completed

from sicsrec.artifacts import ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.errors import BackendUnavailableError
from sicsrec.steps.runner import run_step
from sicsrec.steps.trouble import explained
from tasks.cluster import open_cluster
from tasks.outcome import Refs, StepOutcome, current_observer
from tasks.page import BothProgress, PageProgress, artifact_key, publish_step
from tasks.record import RunRecord, git_commit, open_step_record, record_step
from tasks.settings import GPU_LIMIT, Settings, read_secret
from tasks.shared_store import open_shared_store

logger = logging.getLogger("sicsrec.tasks")

_LEASE_SECONDS = 60.0
"""How long a killed step keeps its place under a limit; the least that Prefect takes. A living one
renews it."""


def call_step(name: str, config: PipelineConfig, refs: Refs, run: RunRecord) -> StepOutcome:
    """Run or reuse one step and turn the result into a Prefect state that carries the outcome.

    Declared as the outcome because that is what the state gives when asked for its result.
    """
    started = time.monotonic()
    settings = Settings.from_environment()
    observer = current_observer()
    observer.started(name)
    store = ArtifactStore(settings.store_root)
    with explained(name, config):
        result = run_step(
            name,
            config,
            refs,
            store,
            refresh=name in run.refresh,
            open_tracker=open_step_record(config, refs, run),
            progress=BothProgress(
                observer.progress, PageProgress(artifact_key(config.dataset, name, "progress"))
            ),
            device=settings.device,
            # The server of this run alone knows no limits.
            hold_accelerator=hold_gpu if settings.prefect_page else nullcontext,
            n_processes=settings.n_processes,
            hosts=settings.hosts,
            open_cluster=partial(open_cluster, settings.dask),
            read_secret=read_secret,
            code={"git_commit": git_commit()} if git_commit() else None,
            shared=open_shared_store(settings.shared_store),
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
        fetched_from=result.fetched_from,
    )
    observer.ended(outcome)
    publish_step(outcome, result)
    state: State[StepOutcome] = Completed(
        name="Cached" if result.was_reused else "Completed",
        message=f"{outcome.rows} {outcome.rows_of}, key {outcome.key}"
        + (f", fetched from {outcome.fetched_from}" if outcome.fetched_from else ""),
        data=outcome,
    )
    return cast("StepOutcome", state)


@contextmanager
def hold_gpu() -> Iterator[None]:
    """Hold one of the places that Prefect's limit ``gpu`` gives, where there is that limit.

    Not a tag of the tasks: those of a reused step, and of a machine without a GPU, would wait too.
    """
    logger.info("waiting for a place under Prefect's limit %r", GPU_LIMIT)
    with concurrency(GPU_LIMIT, lease_duration=_LEASE_SECONDS):
        yield


def is_worth_a_retry(task: Task[Any, Any], task_run: TaskRun, state: State) -> bool:
    """Whether a failed step may succeed later: when a judge could not be reached.

    The client has then tried for a minute or so by itself. A run of a deployment waits for a server
    that is being restarted; a person at a terminal is better told at once.
    """
    del task, task_run
    error = state.result(raise_on_failure=False)
    return isinstance(error, BackendUnavailableError) and deployment.id is not None
