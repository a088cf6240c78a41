"""Models of finished runs at a tracking server, and what is said where there is none."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import mlflow
import polars as pl
import pytest
import requests

from sicsrec.artifacts import ArtifactRef
from sicsrec.config import ExportConfig, PipelineConfig
from sicsrec.steps import STEP_NAMES
from sicsrec.steps.runner import run_step
from tasks import registration
from tasks.record import RunRecord, open_store
from tasks.registration import register_model
from tests.flows.dying import Death, arm
from tests.mlflow_server import free_port, mlflow_server
from tests.unit.steps.tiny_store import TinyStore, make_config, make_tiny_store

NOBODY = RunRecord("0" * 32, "1", STEP_NAMES)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Iterator[Path]:
    shutil.copytree(empty_database, tmp_path / "home" / "mlflow")
    monkeypatch.setenv("SICSREC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield tmp_path / "home"
    mlflow.set_tracking_uri(None)


def config_with(top_k: int) -> PipelineConfig:
    return make_config(export=ExportConfig(top_k=top_k, score="blend", register_model=True))


def run_to_the_end(tiny: TinyStore, config: PipelineConfig) -> None:
    for step in ("evaluate", "export"):
        tiny.refs |= run_step(step, config, tiny.refs, tiny.store).refs


def test_server_that_is_away_is_said_in_one_line_and_nothing_is_raised(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("//", "//me:hidden@"))
    outputs = (("export", "model"), ("evaluate", "per_user"), ("ingest", "interactions"))
    refs = {
        f"{step}/{output}": ArtifactRef("tiny", step, "0" * 16, output, "0", ())
        for step, output in outputs
    }
    line = register_model(config_with(5), refs, NOBODY)
    assert line.startswith("not registered, the next run tries again: no MLflow server answers")
    assert f"MLFLOW_TRACKING_URI={address} " in line
    assert "\n" not in line


def test_a_run_that_did_not_get_that_far_registers_nothing(home: Path) -> None:
    needed = ("export/model", "evaluate/per_user", "ingest/interactions")
    refs = {
        name: ArtifactRef("tiny", name.split("/")[0], "0" * 16, name.split("/")[1], "0", ())
        for name in needed
    }
    assert register_model(config_with(5), refs, NOBODY).startswith("not registered")
    there = {name: ref for name, ref in refs.items() if name != "export/model"}
    assert register_model(config_with(5), there, NOBODY) == ""


def test_a_run_without_evaluation_says_that_it_registers_nothing(home: Path) -> None:
    """A deployment of ``export`` alone ends so; silence would look like a registered model."""
    refs = {
        name: ArtifactRef("tiny", name.split("/")[0], "0" * 16, name.split("/")[1], "0", ())
        for name in ("export/model", "ingest/interactions")
    }
    line = register_model(config_with(5), refs, NOBODY)
    assert line.startswith("not registered")
    assert line.endswith("it is judged by evaluate/per_user, which is no part of this run")


def test_a_refused_upload_leaves_no_password_in_the_log(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_arguments: object) -> None:
        raise requests.HTTPError("413 Client Error for url: http://me:hidden@host/api")

    monkeypatch.setattr(registration, "_register", refuse)
    refs = {
        name: ArtifactRef("tiny", name.split("/")[0], "0" * 16, name.split("/")[1], "0", ())
        for name in registration._NEEDED
    }
    caplog.set_level("WARNING", logger="sicsrec")
    line = register_model(config_with(5), refs, NOBODY)
    said = caplog.text + "".join(str(record.exc_info) for record in caplog.records)
    assert "413" in line
    assert "was not registered" in said
    assert "hidden" not in line + said


def register_and_die(config: PipelineConfig, refs: dict[str, ArtifactRef], run: RunRecord) -> None:
    """Die while the model is copied to where MLflow keeps it."""
    arm(Death(under=os.environ["SICSREC_HOME"], pattern="open .*/models/m-", number=3))
    register_model(config, refs, run)


def test_what_a_killed_registration_left_is_cleared_by_the_next(home: Path) -> None:
    tiny, config = make_tiny_store(home / "artifacts"), config_with(5)
    run_to_the_end(tiny, config)
    store = open_store()
    with store.begin("tiny", "tiny at noon").closing() as parent:
        run = RunRecord(parent.run_id, parent.experiment_id, STEP_NAMES)
        dying = multiprocessing.get_context("spawn").Process(
            target=register_and_die, args=(config, tiny.refs, run)
        )
        dying.start()
        dying.join()
        assert dying.exitcode == -signal.SIGKILL
        assert list((home / "mlflow" / ".registering").rglob("histories.parquet"))
        models = store.client.search_logged_models([parent.experiment_id])
        assert [model.status for model in models] == ["PENDING"]
        kept = home / "mlflow" / "artifacts" / "tiny" / "models"
        assert [path.name for path in kept.iterdir()] == [models[0].model_id]
        assert register_model(config, tiny.refs, run).startswith("sicsrec-tiny version 1, champion")
        (model,) = store.client.search_logged_models([parent.experiment_id])
        assert model.status == "READY"
    # MLflow alone would hide the record and keep the bytes.
    files = [path.relative_to(kept) for path in kept.rglob("*") if path.is_file()]
    assert {path.parts[0] for path in files} == {model.model_id}
    assert not (home / "mlflow" / ".registering").exists()


def test_what_another_run_registered_meanwhile_is_not_judged_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, config = make_tiny_store(home / "artifacts"), config_with(5)
    run_to_the_end(tiny, config)
    workshop = registration._workshop

    def after_another(root: Path) -> AbstractContextManager[Path]:
        monkeypatch.setattr(registration, "_workshop", workshop)
        assert register_model(config, tiny.refs, run) == line
        return workshop(root)

    monkeypatch.setattr(registration, "_workshop", after_another)
    line = "sicsrec-tiny version 1, champion: there was no champion before"
    with open_store().begin("tiny", "tiny at noon").closing() as parent:
        run = RunRecord(parent.run_id, parent.experiment_id, STEP_NAMES)
        assert register_model(config, tiny.refs, run) == line


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_models_are_registered_at_a_server_and_come_back_from_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tiny, config = make_tiny_store(home / "artifacts"), config_with(5)
    run_to_the_end(tiny, config)
    own = tiny.store.open(tiny.refs["export/recommendations"]).path("recommendations.parquet")
    expected = pl.read_parquet(own)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    kept = ("--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}")
    kept += ("--artifacts-destination", (tmp_path / "kept").as_uri())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with mlflow_server(port, *kept):
        store = open_store()
        parent = store.begin("tiny", "tiny at a server")
        run = RunRecord(parent.run_id, parent.experiment_id, STEP_NAMES)
        line = register_model(config, tiny.refs, run)
        assert line == "sicsrec-tiny version 1, champion: there was no champion before"
        assert register_model(config, tiny.refs, run) == line
        assert (os.environ["MLFLOW_TRACKING_URI"], open_store()) == (address, store)
        assert store.client.get_run(run.mlflow_run_id).data.tags["registered"] == line
        version = store.client.get_model_version_by_alias("sicsrec-tiny", "champion")
        # The server takes and gives the files itself; nobody else can reach where they lie.
        logged = store.client.get_logged_model(version.tags["sicsrec.model_id"])
        assert logged.artifact_location.startswith("mlflow-artifacts:")
        assert not list((home / "mlflow").rglob("model.safetensors"))

        users = expected["user_id"].unique(maintain_order=True).to_list()
        loaded = mlflow.pyfunc.load_model("models:/sicsrec-tiny@champion")
        answers = loaded.predict([{"user_id": user} for user in users], params={"k": 5})
        assert [item for answer in answers for item in answer.item_ids] == (
            expected["item_id"].to_list()
        )
        scores = [score for answer in answers for score in answer.scores]
        assert pl.Series(scores, dtype=pl.Float32).equals(expected["score"])

        another = config_with(4)
        run_to_the_end(tiny, another)
        second = register_model(another, tiny.refs, run)
        assert second.startswith("sicsrec-tiny version 2, candidate: ")
        aliases = store.client.get_registered_model("sicsrec-tiny").aliases
        assert {name: int(number) for name, number in aliases.items()} == {
            "candidate": 2,
            "champion": 1,
        }
        third = config_with(3)
        run_to_the_end(tiny, third)
    store.patience_seconds = 0.0
    with parent.closing():
        line = register_model(third, tiny.refs, run)
    assert line.startswith("not registered, the next run tries again: no MLflow server answers")
    assert "\n" not in line
    assert "the model was not registered" in caplog.text
    assert "records were not sent" in caplog.text
    with mlflow_server(port, *kept):
        assert register_model(third, tiny.refs, run).startswith("sicsrec-tiny version 3, candidate")
