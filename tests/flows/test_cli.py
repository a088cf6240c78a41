"""The command line as a person meets it, in processes of its own where it runs anything."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import typer
from mlflow import MlflowClient
from rich.console import Console
from typer.testing import CliRunner

from flows.cli import _clear_errors, _split_ids, app
from flows.configuration import preset_names
from sicsrec.errors import SicsrecError
from sicsrec.runs import RunEntry, RunRegister
from sicsrec.steps import STEP_NAMES
from sicsrec.tracking.mlflow_store import database_uri
from tests.flows.conftest import SMALL
from tests.flows.runs import Launcher
from tests.rights import as_anybody, closed

JUDGE = [
    "--set=sample_pairs.judge.kind=openai",
    "--set=sample_pairs.judge.model=m",
    "--set=sample_pairs.judge.base_url=http://127.0.0.1:9/v1",
]
OVERRIDES = [part for override in SMALL for part in ("--set", override)]


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    # The database of Prefect is shared, as making one takes seconds; the settings are not.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name == "PREFECT_HOME" or not name.startswith("PREFECT_")
    }
    return subprocess.Popen(
        [Path(sys.executable).parent / "sicsrec", *arguments],
        env=environment | {"COLUMNS": "80"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_version_and_help() -> None:
    assert call("--version") == (0, "sicsrec 0.1.0\n")
    code, text = call("run", "--help")
    assert code == 0
    assert "--refresh" in text


def test_help_is_quick() -> None:
    started = time.monotonic()
    output, _ = start("--help").communicate(timeout=60)
    assert "Commands" in output
    assert time.monotonic() - started < 5.0  # 0.4 s on an idle machine; tests run on busy ones


@pytest.mark.parametrize("preset", preset_names())
def test_config_shows_every_value_with_its_origin(preset: str) -> None:
    data = [] if preset == "demo" else ["--data", "/data"]
    code, text = call("config", preset, *data, "--set", "train_sicsrec.alpha=0.3")
    assert code == 0
    lines = text.splitlines()
    assert f'dataset: "{preset}"' in lines[0]
    assert next(line for line in lines if "alpha: 0.3" in line).endswith("# --set")
    values = [line for line in lines if not line.rstrip().endswith(":")]
    assert all("# " in line for line in values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "dmeo"), "did you mean demo?"),
        (("run", "--until", "splt"), "Did you mean split?"),
        (("run", "--refresh", "exprot"), "Did you mean export?"),
        (("run", "--set", "train_sicsrec.alfa=1"), "did you mean train_sicsrec.alpha?"),
        (("config", "bili_food"), "--data FOLDER"),
        (("status", "bili_food", "--data", "/no/such/folder"), "there is no folder"),
        (("plan",), "asks no language model"),
        (("compare", "demo", "--variants", "none.yaml"), "ablation, item-start, pair-sources"),
        (("compare", "bili_food"), "--data FOLDER"),
        (("plan", *JUDGE), "run --until split"),
    ],
)
def test_errors_are_one_message_and_exit_1(arguments: tuple[str, ...], message: str) -> None:
    code, text = call(*arguments)
    assert code == 1
    words = " ".join(text.replace("│", " ").split())
    assert message in words
    assert "Traceback" not in text
    assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "bili_food", "--data", "/no/such/folder"), "there is no folder /no/such/folder"),
        (("compare", "bili_food", "--data", "/no/such/folder"), "there is no folder"),
        (
            ("run", "--set", "encode_items.source={kind: given, text: a.npy}"),
            "no vector file a.npy",
        ),
    ],
)
def test_data_that_are_not_there_are_said_before_a_run_starts(
    home: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, text = call(*arguments)
    assert code == 1
    assert message in " ".join(text.replace("│", " ").split())
    assert not (home / "logs").exists()


def test_a_server_that_was_never_there_is_said_to_be_away() -> None:
    started = start("run", "--until", "split", PREFECT_API_URL="http://127.0.0.1:9/api")
    text, _ = started.communicate(timeout=120)
    words = " ".join(text.replace("│", " ").split())
    assert "no Prefect server answers under PREFECT_API_URL=http://127.0.0.1:9/api" in words
    assert started.returncode == 1


def test_a_home_that_takes_nothing_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SICSREC_HOME", "/proc/sicsrec")
    for command in ("run", "compare", "gc"):
        code, text = call(command)
        assert code == 1
        words = " ".join(text.replace("│", " ").split())
        assert "nothing can be written to SICSREC_HOME=/proc/sicsrec: No such file" in words
        assert "error in sicsrec itself" not in words


def check_one_message(folder: Path, arguments: Sequence[str], message: str) -> None:
    """See what somebody is told who may not look into a folder."""
    with closed(folder):
        code, text = as_anybody(call, *arguments)
    assert code == 1
    assert message in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("config", "{}/mine.yaml"), "mine.yaml cannot be read: Permission denied"),
        (("run", "{}/mine.yaml"), "mine.yaml cannot be read: Permission denied"),
        (("compare", "--variants", "{}/mine.yaml"), "mine.yaml cannot be read: Permission denied"),
        (("run", "bili_food", "--data", "{}/data"), "data cannot be read: Permission denied"),
        (("search", "--output", "{}/mine.yaml"), "mine.yaml: Permission denied; name another"),
        (("config", f"{'a' * 300}.yaml"), "aaa.yaml cannot be read: File name too long"),
        (("run", "bili_food", "--data", "a" * 300), "aaa cannot be read: File name too long"),
    ],
)
def test_what_may_not_be_looked_at_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    folder = tmp_path / "closed"
    (folder / "data").mkdir(parents=True)
    (folder / "mine.yaml").write_text("extends: demo\n")
    check_one_message(folder, [argument.format(folder) for argument in arguments], message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run",), "nothing can be written to SICSREC_HOME={}: Permission denied"),
        (("status",), "manifest.json: Permission denied"),
        (("recommend", "--history", "a"), "{}/artifacts: Permission denied"),
        (("report",), "{}/artifacts: Permission denied"),
        (("results",), "artifacts/demo/evaluate: Permission denied"),
    ],
)
def test_a_home_below_a_closed_folder_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    folder = tmp_path / "closed"
    (folder / "home").mkdir(parents=True)
    monkeypatch.setenv("SICSREC_HOME", str(folder / "home"))
    check_one_message(folder, arguments, message.format(folder / "home"))


def test_status_of_a_home_of_somebody_else_shows_the_steps(home: Path) -> None:
    register = RunRegister(home / "artifacts", "demo")
    register.folder.mkdir(parents=True)
    killed = RunEntry("killed", "demo", "split", "2026-01-01T00:00:00.000+00:00")
    (register.folder / "killed.json").write_text(json.dumps(asdict(killed)))
    with closed(home, 0o555), closed(home / "mlflow", 0o555):
        code, text = as_anybody(call, "status")
    assert code == 0, text
    assert "ingest" in text


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("1, 2 ,3,,", ("1", "2", "3")),
        ("1\n2\n3\n", ("1", "2", "3")),
        ("1\r\n2\r\n\r\n3", ("1", "2", "3")),
        ("1,2\r3", ("1", "2", "3")),
        ('"a,b", c\n"d"', ("a,b", "c", "d")),
        (" \n ", ()),
    ],
)
def test_ids_are_read_from_a_row_and_from_lines(text: str, ids: tuple[str, ...]) -> None:
    assert _split_ids(text) == ids


def test_a_log_that_was_not_begun_is_not_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, text = call("search")
    assert code == 1
    assert "sicsrec[search]" in text
    assert "story" not in text
    assert not (home / "logs").exists()


@pytest.mark.parametrize("error", [SicsrecError, ValueError])
def test_an_error_after_the_run_is_in_its_log_without_passwords(
    tmp_path: Path, error: type[Exception]
) -> None:
    log = tmp_path / "run.log"
    log.write_text("all steps are done\n")
    console = Console(file=io.StringIO(), width=1000)
    with pytest.raises(typer.Exit), _clear_errors(console, log):
        raise error("no table from http://alice:s3cret@host/x")
    assert isinstance(console.file, io.StringIO)
    assert f"The whole story is in {log}" in console.file.getvalue()
    assert log.read_text().startswith("all steps are done\n")
    assert "Traceback" in log.read_text()
    assert "no table from http://host/x" in log.read_text()
    assert "s3cret" not in log.read_text()


def test_a_fault_that_met_no_log_is_shown_with_its_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(file=io.StringIO())
    with pytest.raises(typer.Exit), _clear_errors(console, tmp_path / "run.log"):
        raise ValueError("a fault")
    assert "ValueError: a fault" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.log"))


def test_data_sets_of_which_nothing_is_finished_are_not_named(home: Path) -> None:
    for name in ("made", "failed"):
        (home / "artifacts" / name / "evaluate").mkdir(parents=True)
    commit = home / "artifacts" / "made" / "evaluate" / ("0" * 16)
    commit.mkdir()
    (commit / "manifest.json").write_text("{}")
    code, text = call("results", "other")
    assert code == 1
    assert "there are such runs of made" in " ".join(text.replace("│", " ").split())
    assert "failed" not in text


def test_steps_lists_all() -> None:
    code, text = call("steps")
    assert code == 0
    assert all(name in text for name in STEP_NAMES)


def test_run_reuse_and_status_without_a_server(home: Path, launcher: Launcher) -> None:
    arguments = ("run", *OVERRIDES, "--until", "split")
    first = launcher.start(home, *arguments)
    assert first.wait() == 0
    assert "ingest" in first.said()
    assert "ran" in first.said()
    second, _ = start(*arguments).communicate(timeout=120)
    table = [line.split()[:2] for line in second.splitlines() if "cached" in line]
    assert ["ingest", "cached"] in table
    assert ["split", "cached"] in table
    for place in ("sicsrec ui", "sicsrec ui --prefect", "runs/flow-run/", "artifacts/demo/split"):
        assert place in second
    code, text = call("status", *OVERRIDES)
    assert code == 0
    states = {words[0]: words[1] for line in text.splitlines() if len(words := line.split()) > 1}
    assert (states["split"], states["export"]) == ("cached", "to")
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_failing_run_shows_one_message_and_keeps_the_traceback_in_the_log(
    home: Path, tmp_path: Path, launcher: Launcher
) -> None:
    (tmp_path / "raw").mkdir()
    run = launcher.start(home, "run", "bili_food", "--data", str(tmp_path / "raw"))
    assert run.wait() == 1
    assert "Traceback" not in run.said()
    assert "The data cannot be used" in run.said()
    (log,) = (home / "logs").glob("*-bili_food.log")
    assert "Traceback" in log.read_text()


def test_stopped_run_says_goodbye(home: Path, launcher: Launcher) -> None:
    # Many users make ingest long enough to be stopped in the middle of it.
    run = launcher.start(home, "run", "--set", "ingest.reader.n_users=50000", "--until", "ingest")
    deadline = time.monotonic() + 60
    client = MlflowClient(database_uri(home))
    while time.monotonic() < deadline and len(client.search_runs(["1"])) < 2:
        time.sleep(0.2)
    time.sleep(0.5)
    os.kill(run.pid, signal.SIGTERM)
    assert run.wait() == 130
    assert "What was finished is kept" in run.said()
    runs = client.search_runs(["1"])
    assert len(runs) == 2
    assert {run.info.status for run in runs} == {"KILLED"}


def test_every_command_has_help() -> None:
    command = typer.main.get_command(app)
    names = set(command.commands)  # type: ignore[attr-defined]
    assert names == {
        *("run", "compare", "status", "gc", "plan", "config", "steps", "ui", "serve", "doctor"),
        *("search", "report", "results", "recommend", "export", "join"),
    }
