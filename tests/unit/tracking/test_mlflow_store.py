import json
import logging
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from sicsrec.errors import TrackingError
from sicsrec.liveness import HOST_TAG, PID_TAG, STARTED_TAG, process_tags
from sicsrec.tracking import NullTracker, Tracker
from sicsrec.tracking.mlflow_store import MlflowStore


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> MlflowStore:
    return new_store(tmp_path_factory.mktemp("home"), empty_database)


def new_store(home: Path, empty_database: Path) -> MlflowStore:
    shutil.copytree(empty_database, home / "mlflow")
    return MlflowStore(home)


def read(store: MlflowStore, run_id: str) -> Run:
    return store.client.get_run(run_id)


def test_parent_and_child_keep_what_was_recorded(store: MlflowStore) -> None:
    with store.begin("films", "films at noon", {"a.b": 1}, {"dataset": "films"}).closing() as run:
        with run.step("ingest", {"kind": "demo"}) as tracker:
            assert isinstance(tracker, Tracker)
            tracker.log_metrics({"train/loss": 2.0}, step=1)
            tracker.log_metrics({"train/loss": 1.0}, step=2)
            tracker.set_tags({"word": "value"})
            child_id = tracker.identity()["mlflow_run_id"]
        run.log_report("ingest", {"report/rows": 7.0})
        run.log_metrics({"test/ndcg_at_10": 0.5})
        run.link_reused("split", "0123")
    parent, child = read(store, run.run_id), read(store, child_id)
    assert parent.info.run_name == "films at noon"
    assert parent.info.status == child.info.status == "FINISHED"
    assert parent.data.params == {"a.b": "1"}
    assert parent.data.metrics == {"test/ndcg_at_10": 0.5}
    assert parent.data.tags["reused.split"] == "0123"
    assert child.data.tags["mlflow.parentRunId"] == run.run_id
    assert child.data.tags["word"] == "value"
    assert child.data.metrics["report/rows"] == 7
    history = store.client.get_metric_history(child_id, "train/loss")
    assert [(entry.step, entry.value) for entry in history] == [(1, 2.0), (2, 1.0)]


def test_tables_and_figures_lie_below_the_home(store: MlflowStore) -> None:
    with (
        store.begin("films", "tables").closing() as run,
        run.step("evaluate") as tracker,
    ):
        tracker.log_table("results", pl.DataFrame({"model": ["a"], "hr": [0.5]}))
        tracker.log_figure("curve", Figure())
    found = {
        entry.path
        for folder in ("tables", "figures")
        for entry in store.client.list_artifacts(tracker.run_id, folder)
    }
    assert found == {"tables/results.json", "figures/curve.png"}
    assert store.uri.endswith("/mlflow/mlflow.db")
    folder = Path(read(store, tracker.run_id).info.artifact_uri.removeprefix("file://"))
    assert folder.is_relative_to(Path(store.uri.removeprefix("sqlite:///")).parent)
    table = json.loads((folder / "tables" / "results.json").read_text())
    assert table == {"columns": ["model", "hr"], "data": [["a", 0.5]]}
    marked = json.loads(read(store, tracker.run_id).data.tags["mlflow.loggedArtifacts"])
    assert marked == [{"path": "tables/results.json", "type": "table"}]


def test_failed_step_fails_itself_and_the_parent_with_the_error(store: MlflowStore) -> None:
    run = store.begin("films", "failing")
    with pytest.raises(ValueError, match="no such film"), run.closing(), run.step("split") as child:
        raise ValueError("no such film at http://me:s3cret@host")
    for run_id in (run.run_id, child.run_id):
        assert read(store, run_id).info.status == "FAILED"
        assert read(store, run_id).data.tags["error"] == ("ValueError: no such film at http://host")


def test_interrupted_run_is_killed(store: MlflowStore) -> None:
    run = store.begin("films", "stopped")
    with pytest.raises(KeyboardInterrupt), run.closing():
        raise KeyboardInterrupt
    assert read(store, run.run_id).info.status == "KILLED"


def test_what_a_dead_process_left_open_is_closed(store: MlflowStore) -> None:
    names = ("dead", "alive", "dead there", "of which nothing is known")
    dead, alive, dead_there, unknown = (store.begin("films", name).run_id for name in names)
    store.client.set_tag(dead, STARTED_TAG, "1.00")
    there = process_tags() | {HOST_TAG: "elsewhere"}
    for run_id, tags in ((dead_there, there), (unknown, there | {PID_TAG: "1"})):
        for name, value in tags.items():
            store.client.set_tag(run_id, name, value)
    store.close_abandoned([there])
    statuses = [read(store, run_id).info.status for run_id in (dead, alive, dead_there, unknown)]
    assert statuses == ["KILLED", "RUNNING", "KILLED", "RUNNING"]


def test_attached_run_is_the_same(store: MlflowStore) -> None:
    run = store.begin("films", "handed down")
    store.attach(run.run_id).set_tags({"seen": "yes"})
    store.outbox.flush(0.0)
    assert read(store, run.run_id).data.tags["seen"] == "yes"


def test_many_and_long_parameters_are_taken(store: MlflowStore) -> None:
    params: dict[str, object] = {f"p{index}": index for index in range(250)} | {"long": "x" * 9000}
    run = store.begin("films", "many", params)
    found = read(store, run.run_id).data.params
    assert len(found) == 251
    assert len(found["long"]) == 500


def test_first_touch_keeps_the_logging_as_it_was(tmp_path: Path) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    MlflowStore(tmp_path)
    assert root.handlers == before
    assert root.level == level
    assert (tmp_path / "mlflow" / "mlflow.db").is_file()


def test_other_uri_is_used(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'other.db'}"
    with MlflowStore(tmp_path / "home", uri).begin("films", "there").closing() as run:
        pass
    assert MlflowClient(uri).get_run(run.run_id).info.status == "FINISHED"
    assert not (tmp_path / "home" / "mlflow" / "mlflow.db").exists()


def test_null_tracker_takes_everything() -> None:
    tracker = NullTracker()
    tracker.log_metrics({"a": 1.0})
    tracker.log_table("a", pl.DataFrame())
    tracker.log_figure("a", Figure())
    tracker.set_tags({"a": "b"})
    assert json.dumps(tracker.identity()) == "{}"


def test_a_step_whose_parameters_are_refused_has_one_run_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path
) -> None:
    store = new_store(tmp_path, empty_database)
    parent = store.begin("films", "first")
    refused = [MlflowException("not now")]
    log_batch = store.client.log_batch

    def refuse_once(run_id: str, **entries: Any) -> None:
        if "params" in entries and refused:
            raise refused.pop()
        log_batch(run_id, **entries)

    monkeypatch.setattr(store.client, "log_batch", refuse_once)
    with parent.closing(), parent.step("split", {"strategy": "leave_one_out"}):
        pass
    runs = store.client.search_runs([parent.experiment_id])
    assert sorted((run.info.run_name, run.info.status) for run in runs) == [
        ("first", "FINISHED"),
        ("split", "FINISHED"),
    ]
    child = next(run for run in runs if run.info.run_name == "split")
    assert child.data.params == {"strategy": "leave_one_out"}


def test_a_pipeline_run_whose_parameters_are_refused_is_not_left_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path
) -> None:
    store = new_store(tmp_path, empty_database)

    def refuse(*_arguments: object, **_named: object) -> None:
        raise MlflowException("no")

    monkeypatch.setattr(store.client, "log_batch", refuse)
    with pytest.raises(TrackingError):
        store.begin("films", "first", {"seed": 1})
    experiments = [str(found.experiment_id) for found in store.client.search_experiments()]
    assert [run.info.status for run in store.client.search_runs(experiments)] == ["FAILED"]


def test_an_experiment_that_was_deleted_takes_the_next_run(store: MlflowStore) -> None:
    with store.begin("films", "first").closing() as first:
        pass
    store.client.delete_experiment(first.experiment_id)
    with store.begin("films", "second").closing() as second:
        assert second.experiment_id == first.experiment_id
    assert store.client.get_run(second.run_id).info.status == "FINISHED"


def test_a_mark_that_is_refused_tells_no_password(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    empty_database: Path,
) -> None:
    store = new_store(tmp_path, empty_database)

    def refuse(*_arguments: object, **_named: object) -> None:
        raise MlflowException("API request to http://me:s3cret@127.0.0.1:5000/api failed")

    monkeypatch.setattr(store.client, "log_batch", refuse)
    store.mark("run", {"artifact": "gone"})
    assert "cannot mark" in caplog.text
    assert "s3cret" not in caplog.text
