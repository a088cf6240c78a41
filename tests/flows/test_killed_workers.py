"""A worker of a work pool is killed while a run is under way: alone, or with all it started."""

import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sicsrec.artifacts import ArtifactStore
from sicsrec.tracking.mlflow_store import database_uri
from tests.flows.operation import Operation, operation
from tests.flows.runs import artifacts_of, left_behind

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

UNTIL = "align_encoders"


@pytest.fixture
def deployed(tmp_path: Path, empty_database: Path) -> Iterator[Operation]:
    home = tmp_path / "home"
    shutil.copytree(empty_database, home / "mlflow")
    with operation(home) as started:
        started.start_server()
        started.deploy()
        yield started


def has_committed(started: Operation, step: str) -> bool:
    return bool(ArtifactStore(started.home / "artifacts").manifests("demo", step))


def mlflow_states(started: Operation, flow_run_id: uuid.UUID) -> set[str]:
    client = MlflowClient(database_uri(started.home))
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    mine = client.search_runs(ids, f"tags.`prefect.flow_run_id` = '{flow_run_id}'")
    return {run.info.status for run in mine}


def finding_on_runs(started: Operation) -> dict[str, str]:
    checks = json.loads(started.sicsrec("doctor", "--json").stdout)["checks"]
    (found,) = (check for check in checks if check["name"] == "runs")
    return dict(found)


def test_worker_killed_with_its_runs_is_told_mended_and_made_good(deployed: Operation) -> None:
    worker = deployed.start_worker()
    killed = deployed.begin("full-pipeline", until=UNTIL)
    deployed.wait_for(lambda: has_committed(deployed, "ingest"), "ingest is done")
    deployed.kill(worker, with_children=True)
    assert deployed.state_of(killed) == "Running"
    assert mlflow_states(deployed, killed) == {"RUNNING"}
    found = finding_on_runs(deployed)
    assert found["state"] == "warning"
    assert "killed" in found["found"]

    deployed.start_worker()
    again = deployed.run("full-pipeline", until=UNTIL)
    assert again.code == 0, again.output
    assert again.states["ingest"] == "Cached"
    # Nobody looked after it but the next run.
    assert deployed.state_of(killed) == "Crashed"
    assert mlflow_states(deployed, killed) == {"KILLED"}
    assert finding_on_runs(deployed)["state"] == "ok"
    assert left_behind(deployed.home) == []
    disturbed = artifacts_of(deployed.home)

    shutil.rmtree(deployed.home / "artifacts")
    undisturbed = deployed.run("full-pipeline", until=UNTIL)
    assert undisturbed.code == 0, undisturbed.output
    assert artifacts_of(deployed.home) == disturbed


def test_run_of_a_worker_that_was_killed_alone_crashes_and_is_made_good(
    deployed: Operation,
) -> None:
    worker = deployed.start_worker()
    orphan = deployed.begin("full-pipeline", until=UNTIL)
    deployed.wait_for(lambda: has_committed(deployed, "ingest"), "ingest is done")
    deployed.kill(worker, with_children=False)
    # Nobody reads what it prints any more, which ends a process.
    deployed.wait_for(lambda: deployed.state_of(orphan) == "Crashed", "the run has ended")
    assert mlflow_states(deployed, orphan) == {"KILLED"}

    deployed.start_worker()
    again = deployed.run("full-pipeline", until=UNTIL)
    assert again.code == 0, again.output
    assert again.states["ingest"] == "Cached"
    assert left_behind(deployed.home) == []
