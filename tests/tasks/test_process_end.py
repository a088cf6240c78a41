"""Runs and tasks in Prefect whose process is gone."""

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.states import Crashed, Running

from sicsrec.liveness import HOST_TAG, STARTED_TAG, process_tags
from tasks.process_end import crash_abandoned_flow_runs


@flow(name="train")
def train() -> None:
    pass


@task(name="fit")
def fit() -> None:
    pass


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("lives", [True, False], ids=["living", "gone"])
@pytest.mark.parametrize("is_marked", [True, False], ids=["marked", "open"])
def test_nothing_of_a_process_that_is_gone_stays_running(lives: bool, is_marked: bool) -> None:
    """``marked``: whoever carried the run out has ended it, but not its tasks."""
    tags = process_tags() | ({} if lives else {STARTED_TAG: "1.00"})
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(train, state=Running())
        client.update_flow_run_labels(run.id, {**tags})
        step = client.create_task_run(fit, run.id, dynamic_key="0", state=Running())
        if is_marked:
            client.set_flow_run_state(run.id, Crashed(), force=True)
        names = crash_abandoned_flow_runs()
        assert (run.name in names) == (not lives and not is_marked)
        states = [client.read_task_run(step.id).state_name, client.read_flow_run(run.id).state_name]
        # For what comes after.
        client.set_task_run_state(step.id, Crashed(), force=True)
        client.set_flow_run_state(run.id, Crashed(), force=True)
    still = "Crashed" if is_marked else "Running"
    assert states == (["Running", still] if lives else ["Crashed", "Crashed"])


@pytest.mark.usefixtures("prefect_server")
def test_of_other_hosts_only_what_the_store_knows_to_be_dead_is_marked() -> None:
    there = [process_tags() | {HOST_TAG: host} for host in ("made anew", "unknown")]
    with get_client(sync_client=True) as client:
        runs = [client.create_flow_run(train, state=Running()) for _ in there]
        for run, tags in zip(runs, there, strict=True):
            client.update_flow_run_labels(run.id, {**tags})
        assert crash_abandoned_flow_runs(there[:1]) == [runs[0].name]
        states = [client.read_flow_run(run.id).state_name for run in runs]
    assert states == ["Crashed", "Running"]
