"""Deployments as people use them: a real server, a real worker, ``sicsrec serve``."""

from collections.abc import Iterator

import pytest

from flows.deployments import DEPLOYMENTS, GPU_LIMIT
from sicsrec.steps import STEP_NAMES
from tests.flows.operation import BIN, Operation, operation


@pytest.fixture(scope="module")
def with_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operation]:
    """A server, the deployments of docker/prefect.yaml, and a worker of a process pool."""
    with operation(tmp_path_factory.mktemp("operation") / "home") as started:
        started.start_server()
        pool = started.prefect("work-pool", "create", "--type", "process", "sicsrec")
        assert pool.returncode == 0, pool.stdout + pool.stderr
        deployed = started.prefect(
            "--no-prompt", "deploy", "--all", "--prefect-file", "docker/prefect.yaml"
        )
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
        started.start(BIN / "prefect", "worker", "start", "--pool", "sicsrec")
        yield started


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
    again = with_worker.run("full-pipeline")
    assert again.states == dict.fromkeys(STEP_NAMES, "Cached")
    refreshed = with_worker.run("full-pipeline", refresh=["encode_items"])
    assert refreshed.states == dict.fromkeys(STEP_NAMES, "Cached") | {"encode_items": "Completed"}

    single = with_worker.run("pretrain_id", seed=11)
    assert single.states == {"ingest": "Cached", "split": "Cached", "pretrain_id": "Completed"}
