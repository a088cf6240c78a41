"""Deployments as people use them: a real server, a real worker, ``sicsrec serve``."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows.deployments import DEPLOYMENTS
from flows.server import is_answering
from sicsrec.artifacts import ArtifactStore
from sicsrec.steps import STEP_NAMES
from sicsrec.tracking.mlflow_store import database_uri
from tasks.settings import GPU_LIMIT
from tests.flows.conftest import SMALL
from tests.flows.operation import BIN, Finished, Operation, operation


@pytest.fixture(scope="module")
def with_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operation]:
    """A server, the deployments of docker/prefect.yaml, and a worker of a process pool."""
    with operation(tmp_path_factory.mktemp("operation") / "home") as started:
        started.start_server()
        started.deploy()
        started.start_worker()
        yield started


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Operation]:
    """``sicsrec serve``, which brings its own server, on databases that are there already."""
    home = tmp_path_factory.mktemp("served") / "home"
    shutil.copytree(empty_database, home / "mlflow")
    with operation(home, Path(os.environ["PREFECT_HOME"])) as started:
        port = ("--port", str(started.port), "--cron", "features=0 3 * * *")
        started.start(BIN / "sicsrec", "serve", *port, with_server=False)
        how = "prefect deployment run sicsrec/full-pipeline"
        started.wait_for(lambda: how in started.logs(), "it says how to start a run")
        # What it says can be done at once.
        assert set(started.deployments()) == {entry.name for entry in DEPLOYMENTS}
        assert has_gpu_limit(started)
        yield started


def has_gpu_limit(started: Operation) -> bool:
    if not is_answering(started.api_url):
        return False
    with started.client() as client:
        return any(limit.name == GPU_LIMIT for limit in client.read_global_concurrency_limits())


def has_scheduled_run(started: Operation) -> bool:
    with started.client() as client:
        return any(run.auto_scheduled for run in client.read_flow_runs())


def check_pages_and_records(started: Operation, finished: Finished) -> None:
    """Every step has left its summary, log lines stand there once, and the records link back."""
    texts = {str(entry.key): str(entry.data) for entry in finished.artifacts}
    assert {f"demo-{name.replace('_', '-')}" for name in finished.states} <= set(texts)
    store = ArtifactStore(started.home / "artifacts")
    for name in finished.states:
        text = texts[f"demo-{name.replace('_', '-')}"]
        keys = [manifest.key for manifest in store.manifests("demo", name)]
        assert any(f"| key | `{key}` |" in text for key in keys)
        assert "sicsrec ui" in text  # no MLflow server is known here
        assert len([line for line in finished.lines if line == f"{name}: started"]) == 1
    name = str(finished.flow_run.name)
    assert name.startswith("demo")
    assert f"Created flow run '{name.split()[-1]}'" in finished.output
    names = {run.name for run in finished.tasks} - {"report"}
    assert names == {f"{name} demo" for name in finished.states}
    client = MlflowClient(database_uri(started.home))
    (experiment,) = client.search_experiments(filter_string="name = 'demo'")
    page = f"http://127.0.0.1:{started.port}/runs/flow-run/{finished.flow_run.id}"
    condition = f"tags.`prefect.flow_run_url` = '{page}'"
    recorded = client.search_runs([experiment.experiment_id], condition)
    made = [name for name, state in finished.states.items() if state == "Completed"]
    assert len(recorded) == len(made) + 1


def test_served_step_runs_with_what_it_needs_and_wrong_names_are_refused(
    served: Operation,
) -> None:
    finished = served.run("split")
    assert finished.code == 0, finished.output
    assert finished.states == {"ingest": "Completed", "split": "Completed"}
    check_pages_and_records(served, finished)
    assert "ingest: started" in finished.output  # log lines reach whoever watches

    (schedule,) = served.deployments()["features"].schedules
    assert schedule.schedule.cron == "0 3 * * *"
    # The server makes the runs that a schedule asks for.
    served.wait_for(lambda: has_scheduled_run(served), "a run is scheduled")
    refused = served.prefect("deployment", "run", "sicsrec/full-pipeline", "-p", "preset=dmeo")
    assert refused.returncode == 1
    assert "movielens-100k" in refused.stdout + refused.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_served_runs_fail_with_one_clear_message(served: Operation, tmp_path: Path) -> None:
    unknown = served.run("full-pipeline", overrides=["train_sicsrec.alfa=1"])
    assert unknown.code == 1
    assert unknown.states == {}
    state = unknown.flow_run.state
    assert state is not None
    assert "train_sicsrec.alfa: no such key; did you mean train_sicsrec.alpha?" in str(
        state.message
    )
    assert "adapter_rank" in str(state.message)  # all that exists is named
    assert unknown.lines.count(str(state.message)) == 1  # a line of its own, before any traceback

    words = served.sicsrec("doctor", "--json")
    found = {check["name"]: check["state"] for check in json.loads(words.stdout)["checks"]}
    assert words.returncode == 0, words.stdout
    assert {found[name] for name in ("Prefect", "deployments", "runs", "GPU work")} == {"ok"}

    lost = served.run("ingest", overrides=[], preset="bili_food", data=str(tmp_path / "none"))
    assert lost.states == {"ingest": "Failed"}
    state = lost.flow_run.state
    assert state is not None
    assert str(state.message).startswith("ingest.path: there is no folder")
    assert "Traceback" not in str(state.message)
    # Neither on the page nor where the run is watched, but in a file that the page names.
    assert not any("Traceback" in line for line in (*lost.lines, lost.output))
    assert "there is no folder" in lost.output
    (text,) = (entry for entry in lost.artifacts if entry.key == "what-went-wrong")
    assert "there is no folder" in str(text.data)
    (file,) = (served.home / "logs").glob(f"*-{lost.flow_run.id}.log")
    assert str(file) in str(text.data)
    assert "Traceback" in file.read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_worker_runs_reuses_refreshes_and_runs_one_step(with_worker: Operation) -> None:
    registered = with_worker.deployments()
    assert set(registered) == {entry.name for entry in DEPLOYMENTS}
    with with_worker.client() as client:
        assert client.read_global_concurrency_limit_by_name(GPU_LIMIT).limit == 1

    first = with_worker.run("full-pipeline")
    assert first.code == 0, first.output
    assert first.states == dict.fromkeys(STEP_NAMES, "Completed")
    check_pages_and_records(with_worker, first)
    again = with_worker.run("full-pipeline")
    assert again.states == dict.fromkeys(STEP_NAMES, "Cached")
    check_pages_and_records(with_worker, again)
    refreshed = with_worker.run("full-pipeline", refresh=["encode_items"])
    assert refreshed.states == dict.fromkeys(STEP_NAMES, "Cached") | {"encode_items": "Completed"}

    single = with_worker.run("pretrain_id", seed=11)
    assert single.states == {"ingest": "Cached", "split": "Cached", "pretrain_id": "Completed"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_serve_keeps_what_the_server_has_and_ends_its_runs_in_order(
    tmp_path: Path, empty_database: Path
) -> None:
    """As a system manager restarts a service: SIGTERM, while a run is under way."""
    home = tmp_path / "home"
    shutil.copytree(empty_database, home / "mlflow")

    def serve(started: Operation, *options: str) -> subprocess.Popen[bytes]:
        port = ("--port", str(started.port))
        process = started.start(BIN / "sicsrec", "serve", *port, *options, with_server=False)
        how = "prefect deployment run sicsrec/full-pipeline"
        started.wait_for(lambda: how in started.logs(), "it says how to start a run")
        return process

    def stop(started: Operation, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        assert process.wait(timeout=120) == 0
        started.processes.remove(process)
        assert "Traceback" not in started.logs()

    with operation(home, tmp_path / "prefect") as started:
        cron = ("--cron", "features=0 3 * * *", "--timezone", "Europe/Berlin")
        process = serve(started, "demo", "--set", "seed=7", *cron)
        words = ("schedule", "create", "sicsrec/full-pipeline", "--cron", "0 5 * * *")
        assert started.prefect("deployment", *words).returncode == 0
        long = [*SMALL, "pretrain_id.max_epochs=100000", "pretrain_id.patience=100000"]
        run = started.begin("pretrain_id", long)
        begun = "epochs of id_encoder: started"
        started.wait_for(lambda: begun in started.logs(), "the run trains")
        stop(started, process)

        process = serve(started)
        deployments = started.deployments()
        found = {
            name: [(entry.schedule.cron, entry.schedule.timezone) for entry in it.schedules]
            for name, it in deployments.items()
            if it.schedules
        }
        assert found == {
            "features": [("0 3 * * *", "Europe/Berlin")],
            "full-pipeline": [("0 5 * * *", None)],
        }
        assert deployments["features"].parameters == {
            "preset": "demo",
            "overrides": ["seed=7"],
            "steps": ["encode_items"],
        }
        assert started.state_of(run) == "Crashed"
        client = MlflowClient(database_uri(home))
        ids = [entry.experiment_id for entry in client.search_experiments()]
        assert {entry.info.status for entry in client.search_runs(ids)} == {"KILLED", "FINISHED"}
        stop(started, process)
