"""``sicsrec doctor`` without a server; tests/flows/test_operation.py has it with one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import doctor
from flows.cli import app
from flows.doctor import Check, examine, is_sound
from sicsrec.steps import machine
from sicsrec.steps.machine import Accelerator, untested_versions
from sicsrec.tracking.mlflow_store import MlflowStore
from tasks.settings import Settings
from tests.rights import as_anybody, closed


def look(**environment: str) -> dict[str, Check]:
    settings = Settings.from_environment(dict(os.environ) | environment)
    return {check.name: check for check in examine(settings)}


def test_a_home_that_takes_nothing_is_a_problem(home: Path) -> None:
    with closed(home, 0o555):
        found = as_anybody(look)["disk"]
    assert found.state == "problem"
    assert found.found == f"nothing can be written to SICSREC_HOME={home}"


def test_what_may_not_be_read_is_a_problem_and_ends_no_other_check(home: Path) -> None:
    lock = home / "mlflow" / ".migrate.lock"
    lock.touch()
    with closed(lock, 0o444):
        found = as_anybody(look)
    assert found["MLflow"].state == "problem"
    assert found["MLflow"].found == f"{lock}: Permission denied"
    assert found["store"].state == "ok"
    with closed(home.parent):
        found = as_anybody(look)
    assert {name for name, check in found.items() if check.state == "problem"} == {
        *("disk", "store", "MLflow")
    }
    assert found["store"].found == f"{home / 'artifacts'}: Permission denied"
    assert "SICSREC_HOME" in found["store"].advice


def test_the_records_of_a_copied_home_stay_as_they_are(home: Path) -> None:
    client = MlflowStore(home).client
    client.create_experiment("demo", artifact_location="file:///before/mlflow/artifacts/demo")
    database = (home / "mlflow" / "mlflow.db").read_bytes()
    assert look()["MLflow"].found.endswith("data sets with runs: 1")
    assert (home / "mlflow" / "mlflow.db").read_bytes() == database


def break_an_artifact(home: Path) -> None:
    folder = home / "artifacts" / "demo" / "split" / "0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{")


def test_all_is_well_without_a_server(home: Path) -> None:
    found = look()
    assert {name: check.state for name, check in found.items()} == dict.fromkeys(
        ("versions", "device", "disk", "store", "MLflow", "Prefect"), "ok"
    )
    assert all(not check.advice for check in found.values())


def test_a_fresh_machine_is_told_nothing_but_the_table(tmp_path: Path) -> None:
    """In a process of its own, which imports Prefect where there is no home yet."""
    home = tmp_path / "none" / "yet"
    done = subprocess.run(
        [sys.executable, "-c", "from flows.cli import app; app()", "doctor", "--quick"],
        env=os.environ | {"SICSREC_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert not home.exists()


def test_broken_artifact_is_a_problem_in_table_json_and_exit_status(home: Path) -> None:
    break_an_artifact(home)
    table = CliRunner().invoke(app, ["doctor"])
    assert table.exit_code == 1
    assert "makes it again" in " ".join(table.output.split())
    listed = CliRunner().invoke(app, ["doctor", "--json", "--quick"])
    assert listed.exit_code == 1
    content = json.loads(listed.output)
    assert content["is_sound"] is False
    (store,) = (check for check in content["checks"] if check["name"] == "store")
    assert store["state"] == "problem"
    assert "0123456789abcdef" in store["found"]


def test_servers_that_do_not_answer_are_problems(home: Path) -> None:
    found = look(PREFECT_API_URL="http://127.0.0.1:9/api")
    assert found["Prefect"].state == "problem"
    assert "prefect server start" in found["Prefect"].advice


def test_mlflow_server_that_does_not_answer_is_a_problem(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9")
    found = look()["MLflow"]
    assert found.state == "problem"
    assert "MLFLOW_TRACKING_URI" in found.found
    assert "secret" not in found.found


@pytest.mark.parametrize(
    ("url", "state", "words"),
    [
        ("memory://nothing/here", "ok", "memory://nothing/here: nothing there yet"),
        ("file:///dev/null/below", "warning", "NotADirectoryError"),
        ("bucket", "problem", "is no URL"),
    ],
)
def test_shared_store_is_looked_at(home: Path, url: str, state: str, words: str) -> None:
    found = look(SICSREC_SHARED_STORE=url)["shared store"]
    assert (found.state, words in found.found) == (state, True)


@pytest.mark.parametrize(
    ("free", "state"), [(500_000_000, "problem"), (5_000_000_000, "warning"), (10**12, "ok")]
)
def test_little_space_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    assert look()["disk"].state == state


@pytest.mark.parametrize(
    ("found", "device", "state"),
    [
        (Accelerator(None), "auto", "ok"),
        (Accelerator(None), "cuda", "problem"),
        (Accelerator("Apple GPU", is_chosen=False), "auto", "ok"),
        (Accelerator(None, trouble="there is a driver, but"), "auto", "problem"),
        (Accelerator("A GPU", 70_000_000_000, 80_000_000_000), "cuda", "ok"),
        (Accelerator("A GPU", 1_000_000_000, 80_000_000_000), "auto", "warning"),
        (Accelerator("A GPU", count=2), "cuda:1", "ok"),
        (Accelerator("A GPU", count=2), "cuda:2", "problem"),
    ],
)
def test_device_is_judged_by_what_is_there(
    home: Path, monkeypatch: pytest.MonkeyPatch, found: Accelerator, device: str, state: str
) -> None:
    monkeypatch.setattr(machine, "find_accelerator", lambda: found)
    assert look(SICSREC_DEVICE=device)["device"].state == state


def test_an_accelerator_that_no_run_takes_by_itself_is_named_so(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Accelerator("Apple GPU", is_chosen=False)
    monkeypatch.setattr(machine, "find_accelerator", lambda: found)
    assert look(SICSREC_DEVICE="auto")["device"].found.endswith("runs compute on the CPU")
    assert look(SICSREC_DEVICE="mps")["device"].found == "Apple GPU"


def test_versions_outside_their_ranges_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert untested_versions() == []
    real = machine.importlib.metadata.version

    def version(name: str) -> Any:
        return "99.0" if name == "polars" else real(name)

    monkeypatch.setattr(machine.importlib.metadata, "version", version)
    (fault,) = untested_versions()
    assert fault.startswith("polars 99.0, tested ")
    assert doctor._versions().state == "warning"


def test_warnings_are_no_problems() -> None:
    warning = Check("a", "warning", "something")
    assert is_sound([warning, Check("b", "ok", "well")])
    assert not is_sound([warning, Check("b", "problem", "bad")])
