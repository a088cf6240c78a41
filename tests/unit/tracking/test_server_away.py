"""A tracking server, a real one, is killed during a run and comes back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from matplotlib.figure import Figure

from sicsrec.errors import TrackingError
from sicsrec.tracking.mlflow_store import MlflowStore
from tests.mlflow_server import free_port, mlflow_server


@contextmanager
def server(folder: Path, port: int) -> Iterator[None]:
    database, artifacts = f"sqlite:///{folder / 'server.db'}", (folder / "artifacts").as_uri()
    options = ("--backend-store-uri", database, "--artifacts-destination", artifacts)
    with mlflow_server(port, *options):
        yield


@pytest.fixture(autouse=True)
def _quick_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def test_server_that_is_away_at_the_start_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_URI"):
        MlflowStore(tmp_path, f"http://127.0.0.1:{free_port()}")


@pytest.mark.slow
def test_run_outlives_a_server_that_dies_and_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    with server(tmp_path, port):
        store = MlflowStore(tmp_path, f"http://127.0.0.1:{port}", patience_seconds=240.0)
        run = store.begin("films", "in a storm")
    with run.closing():
        # Away: the run of a step begins, trains, draws and ends.
        with run.step("train_sicsrec", {"alpha": 0.2}, watches_system=True) as tracker:
            for epoch in (1, 2):
                tracker.log_metrics({"train/loss": 3.0 - epoch}, step=epoch)
            tracker.log_table("results", pl.DataFrame({"model": ["a"], "hr": [0.5]}))
            tracker.log_figure("curves", Figure())
            assert tracker.identity() == {}
        assert "the run goes on" in caplog.text
        with server(tmp_path, port):
            store.outbox.flush(240.0)
            run.log_metrics({"test/ndcg_at_10": 0.3})
            child_id = tracker.identity()["mlflow_run_id"]
            child = store.client.get_run(child_id)
            assert child.info.status == "FINISHED"
            assert child.info.end_time >= child.info.start_time
            assert child.data.params == {"alpha": "0.2"}
            history = store.client.get_metric_history(child_id, "train/loss")
            assert [(entry.step, entry.value) for entry in history] == [(1, 2.0), (2, 1.0)]
            found = [
                entry.path
                for folder in ("tables", "figures")
                for entry in store.client.list_artifacts(child_id, folder)
            ]
            assert found == ["tables/results.json", "figures/curves.png"]
            run.end("FINISHED")
            store.outbox.flush(240.0)
            parent = store.client.get_run(run.run_id)
            assert parent.info.status == "FINISHED"
            assert parent.data.metrics == {"test/ndcg_at_10": 0.3}
            # What closing() sends once more changes nothing.
            store.patience_seconds = 0.0
    assert "kept records are sent" in caplog.text
