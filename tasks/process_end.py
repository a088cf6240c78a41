"""Flow runs whose process was killed do not stay "Running" in Prefect for ever.

A flow run carries labels with host, process and start of the process, see
:mod:`sicsrec.liveness`. Only runs of processes that are known to be gone are touched: those of this
host, and those of others of which the store knows it, here called ``gone``; see
:func:`sicsrec.runs.killed_processes`.
"""

import logging
from collections.abc import Collection, Iterable, Mapping

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, StateType
from prefect.runtime import flow_run
from prefect.states import Crashed

from sicsrec.liveness import is_abandoned, process_tags

logger = logging.getLogger("sicsrec.tasks")

_PAGE = 100
_MESSAGE = "The process was killed; run the same again, what was finished is reused."
_OPEN_TASKS = TaskRunFilter(
    state=TaskRunFilterState(
        type=TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
    )
)


def sign_flow_run() -> None:
    """Write on the running flow run, if there is one, which process carries it out."""
    if flow_run.id is None:
        return
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(flow_run.id, {**process_tags()})


def crash_abandoned_flow_runs(gone: Collection[Mapping[str, str]] = ()) -> list[str]:
    """Mark flow runs as crashed whose process is gone; return their names."""
    with get_client(sync_client=True) as client:
        found = abandoned_flow_runs(client, gone)
        for run in found:
            _crash(client, run)
        for run in _ended_without_their_tasks(client, gone):
            _crash_tasks(client, run)
    names = [run.name for run in found]
    for name in names:
        logger.info("marked the Prefect run %s of a killed process as crashed", name)
    return names


def abandoned_flow_runs(
    client: SyncPrefectClient, gone: Collection[Mapping[str, str]] = ()
) -> list[FlowRun]:
    """Return the flow runs that count as running and whose process is gone."""
    return _of_gone_processes(client, gone, [StateType.RUNNING, StateType.CANCELLING])


def _ended_without_their_tasks(
    client: SyncPrefectClient, gone: Collection[Mapping[str, str]]
) -> list[FlowRun]:
    """Return runs that whoever carried them out has marked as ended, but not their tasks.

    ``sicsrec serve`` and workers do so when the process of a run is gone.
    """
    return _of_gone_processes(client, gone, TERMINAL_STATES, _OPEN_TASKS)


def _of_gone_processes(
    client: SyncPrefectClient,
    gone: Collection[Mapping[str, str]],
    states: Iterable[StateType],
    task_filter: TaskRunFilter | None = None,
) -> list[FlowRun]:
    """Return flow runs in one of these states, with such tasks, whose process is gone."""
    of_states = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states)))
    )
    runs: list[FlowRun] = []
    while page := client.read_flow_runs(
        flow_run_filter=of_states, task_run_filter=task_filter, limit=_PAGE, offset=len(runs)
    ):
        runs += page
    return [
        run
        for run in runs
        if is_abandoned({name: str(value) for name, value in run.labels.items()}, gone)
    ]


def _crash(client: SyncPrefectClient, run: FlowRun) -> None:
    _crash_tasks(client, run)
    client.set_flow_run_state(run.id, Crashed(message=_MESSAGE), force=True)


def _crash_tasks(client: SyncPrefectClient, run: FlowRun) -> None:
    mine = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    for task in client.read_task_runs(flow_run_filter=mine, task_run_filter=_OPEN_TASKS):
        client.set_task_run_state(task.id, Crashed(message=_MESSAGE), force=True)
