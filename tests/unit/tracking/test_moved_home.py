"""A home that was moved, with its records."""

import shutil
import sqlite3
from pathlib import Path

import polars as pl
import pytest

from sicsrec.tracking.mlflow_store import MlflowStore
from sicsrec.tracking.moved_home import follow_home

TABLE = pl.DataFrame({"model": ["a"], "hr": [0.5]})


def record(home: Path, name: str) -> str:
    store = MlflowStore(home)
    with store.begin("films", name).closing() as run, run.step("evaluate") as tracker:
        tracker.log_table("results", TABLE)
    return str(tracker.identity()["mlflow_run_id"])


@pytest.mark.parametrize("is_copy", [False, True], ids=["moved", "copied"])
def test_records_and_files_stay_together(
    tmp_path: Path, empty_database: Path, is_copy: bool
) -> None:
    before, after = tmp_path / "home", tmp_path / "mein Zuhause ü"
    shutil.copytree(empty_database, before / "mlflow")
    first = record(before, "first")
    shutil.copytree(before, after)
    if not is_copy:
        shutil.rmtree(before)
    files = {path for path in before.rglob("*") if path.is_file()}
    second = record(after, "second")
    assert {path for path in before.rglob("*") if path.is_file()} == files, "nothing goes there"
    client = MlflowStore(after).client
    for run_id in (first, second):
        found = Path(client.download_artifacts(run_id, "tables/results.json", str(tmp_path)))
        assert found.is_file()
        assert client.get_run(run_id).info.artifact_uri.startswith(after.as_uri())
    if is_copy:
        uri = MlflowStore(before).client.get_run(first).info.artifact_uri
        assert uri.startswith(before.as_uri()), "the original is as it was"


def test_other_places_and_half_made_databases_are_left_alone(
    tmp_path: Path, empty_database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "home"
    shutil.copytree(empty_database, home / "mlflow")
    store = MlflowStore(home)
    elsewhere = f"{(tmp_path / 'bucket').as_uri()}/films"
    number = store.client.create_experiment("films", artifact_location=elsewhere)
    artifacts = home / "mlflow" / "artifacts"
    follow_home(home / "mlflow" / "mlflow.db", artifacts)
    assert store.client.get_experiment(number).artifact_location == elsewhere
    follow_home(tmp_path / "none.db", artifacts)
    assert not (tmp_path / "none.db").exists()
    sqlite3.connect(tmp_path / "empty.db").close()
    follow_home(tmp_path / "empty.db", artifacts)
    (tmp_path / "broken.db").write_text("no database at all " * 100)
    follow_home(tmp_path / "broken.db", artifacts)
    assert "could not be moved with their home" in caplog.text
