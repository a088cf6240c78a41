"""Models in a real MLflow store: logged, registered, loaded by alias, and served by MLflow."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest
from mlflow.exceptions import MlflowException

from sicsrec.config import ExportConfig
from sicsrec.evaluation.promotion import judge_files
from sicsrec.steps.model_parts import make_model_parts
from sicsrec.steps.runner import run_step
from sicsrec.tracking.mlflow_store import MlflowStore
from sicsrec.tracking.models import (
    CANDIDATE,
    CHAMPION,
    ModelFiles,
    ModelRegistry,
    RegisteredModel,
)
from tests.unit.recommender_parts import with_encoders
from tests.unit.steps.tiny_store import histories_by_user, make_config, make_tiny_store

REPOSITORY = Path(__file__).parents[3]
NEW_ITEM = {"item_id": "new", "text": "a film about a reef"}


@dataclass
class Logged:
    store: MlflowStore
    registry: ModelRegistry
    files: ModelFiles
    run_id: str
    model: RegisteredModel
    recommendations: pl.DataFrame


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Logged]:
    root = tmp_path_factory.mktemp("registry")
    shutil.copytree(empty_database, root / "mlflow")
    tiny = make_tiny_store(root / "artifacts")
    config = with_encoders(tiny, make_config(export=ExportConfig(top_k=5, score="blend")))
    for step in ("evaluate", "export"):
        tiny.refs |= run_step(step, config, tiny.refs, tiny.store).refs
    parts = make_model_parts(tiny.store, tiny.refs, config, root)
    files = ModelFiles(parts.folder, parts.histories, parts.validation)
    store = MlflowStore(root)
    before = os.environ.get("MLFLOW_TRACKING_URI")
    with store.begin("tiny", "tiny at noon").closing() as run:
        registry = ModelRegistry(store, "tiny")
        model = registry.register(
            files,
            root,
            key="0" * 16,
            run_id=run.run_id,
            example=parts.example,
            parameters=parts.parameters,
            tags={"dataset": "tiny"},
        )
        verdict = judge_files(files.validation, registry.champion_validation(root))
        model = registry.decide(model, promoted=verdict.promoted, reason=verdict.reason)
    # A run records on after its model was registered; MLflow had sent it to another database.
    assert os.environ.get("MLFLOW_TRACKING_URI") == before
    table = tiny.store.open(tiny.refs["export/recommendations"]).path("recommendations.parquet")
    mlflow.set_tracking_uri(store.uri)  # which sets the variable too
    yield Logged(store, registry, files, run.run_id, model, pl.read_parquet(table))
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def loaded(logged: Logged) -> Any:
    return mlflow.pyfunc.load_model("models:/sicsrec-tiny@champion")


def test_first_model_is_candidate_and_champion_and_says_why(logged: Logged) -> None:
    client = logged.store.client
    for alias in (CANDIDATE, CHAMPION):
        version = client.get_model_version_by_alias("sicsrec-tiny", alias)
        assert version.version == int(logged.model.version)
    assert version.description == "champion: there was no champion before"
    assert version.tags["sicsrec.decision"] == "champion"
    assert f"`{CHAMPION}`" in client.get_registered_model("sicsrec-tiny").description
    assert logged.registry.find("0" * 16) == logged.model
    assert logged.registry.find("1" * 16) is None
    outputs = client.get_run(logged.run_id).outputs.model_outputs
    assert [entry.model_id for entry in outputs] == [logged.model.model_id]


def test_logged_model_has_signature_example_requirements_and_no_pickle(logged: Logged) -> None:
    location = logged.store.client.get_logged_model(logged.model.model_id).artifact_location
    folder = Path(location.removeprefix("file://"))
    info = mlflow.models.get_model_info(f"models:/{logged.model.model_id}")
    assert info.signature.params.to_dict()[0]["name"] == "k"
    assert info.saved_input_example_info["artifact_path"] == "input_example.json"
    requirements = (folder / "requirements.txt").read_text().split()
    assert all("==" in line and "+" not in line for line in requirements)
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert not suffixes & {".pkl", ".pickle", ".pt", ".bin", ".pth"}
    assert (folder / "artifacts" / "model" / "model.safetensors").read_bytes() == (
        logged.files.folder / "model.safetensors"
    ).read_bytes()


def as_table(answers: list[dict[str, Any]], logged: Logged) -> pl.DataFrame:
    """Return answers as the pipeline writes recommendations."""
    rows = [
        (answer["user_id"], place + 1, item, score)
        for answer in answers
        for place, (item, score) in enumerate(
            zip(answer["item_ids"], answer["scores"], strict=True)
        )
    ]
    return pl.DataFrame(rows, schema=logged.recommendations.schema, orient="row")


def test_round_trip_by_alias_gives_the_pipelines_own_recommendations(
    logged: Logged, loaded: Any
) -> None:
    users = logged.recommendations["user_id"].unique(maintain_order=True).to_list()
    answers = loaded.predict([{"user_id": user} for user in users], params={"k": 5})
    assert as_table([answer.model_dump() for answer in answers], logged).equals(
        logged.recommendations
    )


def test_histories_users_and_parameters(logged: Logged, loaded: Any) -> None:
    history = histories_by_user()["u17"]
    by_user, by_history = loaded.predict([{"user_id": "u17"}, {"history": [*history, "new"]}])
    assert by_history.item_ids == by_user.item_ids
    assert (by_history.unknown_items, by_user.unknown_items) == (["new"], [])
    kept = loaded.predict([{"history": history}], params={"k": 12, "remove_seen": False})[0]
    assert len(kept.item_ids) == 12
    new = loaded.predict([{"history": ["v03"], "new_items": [NEW_ITEM]}], params={"k": 12})[0]
    assert "new" in new.item_ids


def test_requests_that_cannot_be_answered_say_so_one_by_one(loaded: Any) -> None:
    answers = loaded.predict(
        [
            {"user_id": "nobody"},
            {"history": []},
            {"history": ["x", "y"]},
            {"history": ["v03"], "new_items": [{"item_id": "v04", "text": "a film"}]},
            {"history": ["v03"]},
        ]
    )
    assert [bool(answer.item_ids) for answer in answers] == [False] * 4 + [True]
    errors = [answer.error or "" for answer in answers]
    assert "user 'nobody' is not known" in errors[0]
    assert "empty" in errors[1]
    assert "none of the 2 items" in errors[2]
    assert "ids that the model knows already" in errors[3]
    assert answers[2].unknown_items == ["x", "y"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "neither user_id nor history"),
        ({"history": "v03"}, "history"),
        ({"history": [3]}, "history"),
        ({"user": "u17"}, "user"),
    ],
)
def test_malformed_requests_are_refused(
    loaded: Any, request_: dict[str, object], message: str
) -> None:
    with pytest.raises(MlflowException, match=message):
        loaded.predict([request_])


def test_a_second_model_becomes_champion_only_beyond_noise(logged: Logged, tmp_path: Path) -> None:
    client, registry = logged.store.client, logged.registry
    champion = registry.champion_validation(tmp_path)
    assert champion is not None
    equal = judge_files(logged.files.validation, champion)
    assert not equal.promoted
    second = registry.register(
        logged.files,
        tmp_path,
        key="2" * 16,
        run_id=logged.run_id,
        example={"history": ["v01"]},
        parameters={"k": 10, "remove_seen": False},
        tags={},
    )
    assert os.environ["MLFLOW_TRACKING_URI"] == logged.store.uri
    assert client.get_model_version_by_alias("sicsrec-tiny", CANDIDATE).version == 2
    keeping = mlflow.pyfunc.load_model("models:/sicsrec-tiny@candidate")
    history = {"history": ["v01", "v02"]}
    kept = keeping.predict([history], params={"k": 12})[0].item_ids
    assert {"v01", "v02"} <= set(kept), "as an export that leaves in what was watched"
    left_out = keeping.predict([history], params={"remove_seen": True})[0].item_ids
    assert not {"v01", "v02"} & set(left_out)
    decided = registry.decide(second, promoted=equal.promoted, reason=equal.reason)
    assert "not better beyond noise" in decided.summary
    assert client.get_model_version_by_alias("sicsrec-tiny", CHAMPION).version == 1


def test_of_a_model_that_could_not_be_logged_no_files_stay(
    logged: Logged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []
    copy = logged.store.client.log_model_artifacts

    def copy_and_fail(model_id: str, folder: str) -> None:
        copy(model_id, folder)
        place = logged.store.client.get_logged_model(model_id).artifact_location
        places.append(Path(place.removeprefix("file://")))
        assert (places[0] / "MLmodel").is_file()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(logged.registry.client, "log_model_artifacts", copy_and_fail)
    with pytest.raises(OSError, match="No space left"):
        logged.registry.register(
            logged.files,
            tmp_path,
            key="3" * 16,
            run_id=logged.run_id,
            example={"history": ["v01"]},
            parameters={"k": 10, "remove_seen": False},
            tags={},
        )
    assert not places[0].exists()


def test_a_store_that_fails_is_not_taken_for_one_without_a_champion(
    logged: Logged, tmp_path: Path
) -> None:
    registry = ModelRegistry(logged.store, "other")
    with pytest.raises(MlflowException, match="sicsrec-other"):
        registry.champion_validation(tmp_path)


def new_environment(folder: Path, requirements: Path) -> Path:
    """Return the interpreter of an environment with these requirements and nothing else."""
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip"]
    probe = [*pip, "download", "--quiet", "--no-deps", "--dest", folder / "probe", "filelock"]
    if subprocess.run(probe, check=False, capture_output=True).returncode:
        pytest.skip("pip reaches no index here, so there is nothing to install from")
    done = subprocess.run(
        [*pip, "install", "--quiet", "--requirement", requirements],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "bin" / "python"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_logged_requirements_are_all_that_a_fresh_environment_needs(
    logged: Logged, loaded: Any, tmp_path: Path
) -> None:
    alias, folder = "models:/sicsrec-tiny@champion", tmp_path / "served"
    mlflow.artifacts.download_artifacts(artifact_uri=alias, dst_path=str(folder))
    python = new_environment(tmp_path / "fresh", folder / "requirements.txt")
    users = logged.recommendations["user_id"].unique(maintain_order=True).to_list()
    requests = [{"user_id": user} for user in users]
    requests.append({"history": ["v03"], "new_items": [NEW_ITEM]})
    code = (
        "import json, sys, mlflow\n"
        "model = mlflow.pyfunc.load_model(sys.argv[2])\n"
        "import sicsrec\n"
        "answers = model.predict(json.loads(sys.argv[1]), params={'k': 5})\n"
        "print(json.dumps([sicsrec.__file__, [answer.model_dump() for answer in answers]]))"
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    own = [answer.model_dump() for answer in loaded.predict(requests, params={"k": 5})]
    assert as_table(own[:-1], logged).equals(logged.recommendations)
    for source in (alias, str(folder)):
        done = subprocess.run(
            [python, "-I", "-c", code, json.dumps(requests), source],
            env=environment | {"MLFLOW_TRACKING_URI": logged.store.uri},
            cwd=tmp_path,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        place, answers = json.loads(done.stdout.splitlines()[-1])
        assert not Path(place).is_relative_to(REPOSITORY)  # it is the copy that was logged
        # JSON writes the shortest text that reads back as the same number: this compares bits.
        assert answers == own


@pytest.fixture(scope="module")
def served(logged: Logged, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of ``mlflow models serve`` with the champion."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("served") / "log.txt"
    command = [sys.executable, "-m", "mlflow", "models", "serve"]
    command += ["--model-uri", "models:/sicsrec-tiny@champion", "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"MLFLOW_TRACKING_URI": logged.store.uri}
    with log.open("w") as out:
        server = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 240
            while True:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            os.killpg(server.pid, 15)
            server.wait()


def ask(address: str, body: str) -> tuple[int, Any]:
    request = urllib.request.Request(  # noqa: S310
        address, body.encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as err:
        return err.code, json.load(err)


def test_the_served_model_answers_and_refuses(logged: Logged, loaded: Any, served: str) -> None:
    history = histories_by_user()["u17"]
    code, single = ask(served, json.dumps({"inputs": [{"user_id": "u17"}], "params": {"k": 3}}))
    assert code == 200
    assert len(single["predictions"][0]["item_ids"]) == 3
    requests = [{"user_id": "u17"}, {"history": history}, {"user_id": "nobody"}, {"history": []}]
    code, batch = ask(served, json.dumps({"inputs": requests}))
    assert code == 200
    expected = [answer.model_dump() for answer in loaded.predict(requests)]
    assert batch["predictions"] == expected
    code, unknown = ask(served, json.dumps({"inputs": [{"history": ["x", "v03"]}]}))
    assert code == 200
    assert unknown["predictions"][0]["unknown_items"] == ["x"]
    for body, message in (
        ("{not json", "JSON"),
        (json.dumps({"inputs": [{}]}), "neither user_id nor history"),
        (json.dumps({"inputs": [{"history": "v03"}]}), "list"),
        (json.dumps({"inputs": [{"user_id": "u17"}], "params": {"k": 0}}), "k must be at least 1"),
        (json.dumps({"rows": []}), "inputs"),
    ):
        code, refused = ask(served, body)
        assert code == 400, refused
        assert message in json.dumps(refused)
    code, again = ask(served, json.dumps({"inputs": [{"user_id": "u17"}], "params": {"k": 3}}))
    assert (code, again) == (200, single)
