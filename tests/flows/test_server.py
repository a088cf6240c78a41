"""Addresses that the command line shows, and the servers it starts."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from rich.console import Console
from typer.testing import CliRunner

from flows import configuration, following, server
from flows.cli import app
from flows.configuration import resolve_config
from flows.service import print_how_to_run
from flows.session import prefect_session
from sicsrec.artifacts import ArtifactStore
from sicsrec.errors import SicsrecError, TrackingError
from sicsrec.steps.runner import run_step
from sicsrec.tracking.mlflow_store import MlflowStore
from tasks.settings import Settings
from tests.flows.conftest import SMALL
from tests.flows.servers import Failing, Refusing, answering

SECRETS = {
    "MLFLOW_TRACKING_URI": "http://alice:s3cret@127.0.0.1:9",
    "PREFECT_API_URL": "http://alice:s3cret@127.0.0.1:9/api",
}


@pytest.fixture
def _secret_servers(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("_secret_servers")
@pytest.mark.parametrize(
    "command", [["ui"], ["ui", "--prefect"], ["doctor", "--quick"], ["serve"], ["status"]]
)
def test_no_command_shows_the_password_of_a_server(command: list[str]) -> None:
    result = CliRunner().invoke(app, command)
    assert "s3cret" not in result.output
    assert isinstance(result.exception, SystemExit | None)
    if command[0] != "status":
        assert "127.0.0.1:9" in "".join(result.output.split())


@pytest.fixture
def failing() -> Iterator[str]:
    with answering(Failing) as address:
        yield address


@pytest.fixture
def refusing(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The server that commands and Prefect's client ask."""
    with answering(Refusing) as address:
        url = f"http://alice:s3cret@{address}/api"
        monkeypatch.setenv("PREFECT_API_URL", url)
        with temporary_settings({PREFECT_API_URL: url}):
            yield address


@pytest.mark.parametrize(
    ("command", "variable", "path"),
    [
        (["gc"], "MLFLOW_TRACKING_URI", ""),
        pytest.param(
            ["run", "--until", "split"], "MLFLOW_TRACKING_URI", "", marks=pytest.mark.slow
        ),
        (["run", "--until", "split"], "PREFECT_API_URL", "/api/"),
    ],
)
def test_a_server_that_fails_shows_its_password_nowhere(
    command: list[str], variable: str, path: str, failing: str, home: Path
) -> None:
    """In a process of its own: Prefect reads its variables once."""
    if command == ["gc"]:
        config = resolve_config("demo", overrides=SMALL).config
        run_step("ingest", config, {}, ArtifactStore(home / "artifacts"))
    variables = {variable: f"http://alice:s3cret@{failing}{path}", "SICSREC_HOME": str(home)}
    variables |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    done = subprocess.run(
        [sys.executable, "-c", "from flows.cli import app; app()", *command],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    written = [path.read_text() for path in home.rglob("*.log")]
    for text in (done.stdout, done.stderr, *written):
        assert "s3cret" not in text
    assert "Traceback" not in done.stdout + done.stderr
    assert failing in "".join((done.stdout + done.stderr).replace("│", "").split())


def test_an_error_that_nothing_explains_is_shown_whole_but_for_passwords(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no answer from http://alice:s3cret@host/api")

    monkeypatch.setattr(configuration, "resolve_config", fail)
    result = CliRunner().invoke(app, ["config"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback")
    assert result.stderr.endswith("ValueError: no answer from http://host/api\n")


@pytest.mark.parametrize("address", ["localhost:5000", "./mlruns", "mysql+none://a:s3cret@h/d"])
def test_an_address_that_is_no_store_of_records_is_told(
    address: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(TrackingError, match=r"MLFLOW_TRACKING_URI=.*such as http://host:5000"):
        MlflowStore(home, address)
    result = CliRunner().invoke(app, ["doctor", "--quick"])
    assert isinstance(result.exception, SystemExit | None)
    assert "s3cret" not in result.output


def test_a_slash_behind_the_address_does_no_harm(failing: str) -> None:
    assert server.is_answering(f"http://{failing}/api/")


@pytest.mark.parametrize(
    ("command", "variables", "message"),
    [
        (["status"], {"SICSREC_PROCESSES": "two"}, "SICSREC_PROCESSES must be a whole number"),
        (["doctor"], {"SICSREC_HOSTS": "2"}, "SICSREC_TRAINING_ADDRESS"),
        (["serve"], {"PREFECT_API_URL": "http://127.0.0.1:port/api"}, "no Prefect server answers"),
        (
            ["serve", "--port", "4201"],
            {"PREFECT_API_URL": "http://a:s3cret@127.0.0.1:9/api"},
            "--port 4201 is for a server that is started here, but "
            "PREFECT_API_URL=http://127.0.0.1:9/api names one",
        ),
        (
            ["ui", "--prefect", "--port", "4201"],
            {"PREFECT_API_URL": "http://127.0.0.1:9/api"},
            "leave --port out, or unset PREFECT_API_URL",
        ),
        (
            ["ui", "--port", "4201"],
            {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
            "leave --port out, or unset MLFLOW_TRACKING_URI",
        ),
        (["serve", "--timezone", "UTC"], {}, "--timezone UTC is that of schedules"),
        (
            ["serve", "--cron", "split=@daily", "--cron", "split=@hourly"],
            {},
            "split is given '@daily' already",
        ),
        (["gc", "--older-than", "1e10"], {}, "36500 at most"),
        (["status"], {"SICSREC_HOME": "~no such user/x"}, "there is no such user"),
        (["config", "bili_food", "--data", "~no such user/x"], {}, "there is no such user"),
    ],
)
def test_what_cannot_be_is_one_message(
    command: list[str],
    variables: dict[str, str],
    message: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "SicsrecError" not in result.output
    assert message in " ".join(result.output.replace("│", "").split())


def test_a_server_address_that_is_none_does_not_keep_the_state_of_steps_from_being_shown(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "foo")
    result = CliRunner().invoke(app, ["status"])
    assert (result.exit_code, result.exception) == (0, None)


def test_steps_are_shown_although_the_server_refuses(refusing: str) -> None:
    result = CliRunner().invoke(app, ["status"])
    assert (result.exit_code, result.exception) == (0, None)
    words = " ".join(result.output.split())
    assert "train_sicsrec" in words
    assert f"PREFECT_API_URL=http://{refusing}/api answers with HTTP status 401" in words
    assert "set PREFECT_API_AUTH_STRING" in words


@pytest.mark.parametrize("what", ["run", "serve"])
def test_a_server_that_refuses_is_named_with_what_to_do(
    what: str, refusing: str, home: Path
) -> None:
    settings, console = Settings.from_environment(), Console(file=StringIO())
    named = f"PREFECT_API_URL=http://{refusing}/api answers .* 401; set PREFECT_API_AUTH_STRING"
    with (
        pytest.raises(SicsrecError, match=named),
        prefect_session(settings, console, home / "run.log")
        if what == "run"
        else server.standing_prefect_server(settings, None),
    ):
        pass


def test_how_to_run_says_where_the_server_is_without_its_password() -> None:
    console = Console(file=StringIO(), width=200)
    print_how_to_run(SECRETS["PREFECT_API_URL"], None, console)
    text = console.file.getvalue()
    assert "page: http://127.0.0.1:9/deployments" in text
    assert "s3cret" not in text
    assert "PREFECT_API_URL=http://127.0.0.1:9/api" in text


def test_a_server_that_takes_too_long_is_told_of_with_the_variable_that_gives_it_time(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(home / "prefect"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    settings = replace(Settings.from_environment(), server_start_seconds=0)
    log = settings.log_folder / "prefect-server.log"
    message = f"did not answer within 0 seconds, which SICSREC_SERVER_START_SECONDS .*{log}"
    with server.prefect_server(settings, log) as started:
        assert started is not None
        with pytest.raises(SicsrecError, match=f"the temporary Prefect server {message}"):
            started.wait()
    port = server.free_port()
    with (
        pytest.raises(SicsrecError, match=f"the Prefect server on port {port} {message}"),
        server.standing_prefect_server(settings, port),
    ):
        pass


def test_a_server_that_ends_is_not_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(home / "prefect"))
    with server.TemporaryServer(home / "server.log", 60.0) as started:
        children = psutil.Process().children()
        (process,) = (child for child in children if str(started.port) in child.cmdline())
        process.kill()
        with pytest.raises(SicsrecError, match="ended before it answered"):
            started.wait()


DEAF = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
open(sys.argv[1], "w").close()
time.sleep(60)
"""
WILLING = "import sys, time; open(sys.argv[1], 'w').close(); time.sleep(60)"
STARTER = """
import os, signal, sys
from flows import following, server
# Whoever runs the tests in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
following._END_SECONDS = 0.5
command = [sys.executable, "-c", *sys.argv[1:]]
sys.exit(server._run_until_stopped(command, os.environ, server.free_port(), "it", "", print))
"""


@contextmanager
def started_server(
    program: str, folder: Path
) -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
    """Who starts a server that runs ``program``, and the processes below it."""
    sign = folder / "started"
    with subprocess.Popen([sys.executable, "-c", STARTER, program, str(sign)]) as starter:
        while not sign.exists():
            assert starter.poll() is None, "it ended before its server began"
            time.sleep(0.05)
        started = psutil.Process(starter.pid).children(recursive=True)
        assert len(started) == 2, "who follows, and the server"
        yield starter, started


@pytest.mark.parametrize(
    ("program", "number"),
    [(WILLING, signal.SIGINT), (DEAF, signal.SIGINT), (DEAF, signal.SIGTERM)],
    ids=["willing-SIGINT", "deaf-SIGINT", "deaf-SIGTERM"],
)
def test_a_signal_to_this_process_alone_ends_the_server_too(
    program: str, number: signal.Signals, tmp_path: Path
) -> None:
    with started_server(program, tmp_path) as (starter, started):
        starter.send_signal(number)
        assert starter.wait(timeout=10) == 0
        assert psutil.wait_procs(started, timeout=10)[1] == []


def test_a_server_that_ends_first_hands_its_exit_status_on() -> None:
    process = following.start_following(
        [sys.executable, "-c", "raise SystemExit(3)"], os.environ, stdout=subprocess.DEVNULL
    )
    assert process.wait(timeout=30) == 3
    following.end(process)


@pytest.mark.parametrize("command", [["ui"], ["ui", "--prefect"], ["serve"]])
def test_a_port_that_another_program_has_is_refused(
    command: list[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(app, [*command, "--port", port])
    assert result.exit_code == 1
    words = " ".join(result.output.replace("│", "").split())
    assert f"another program listens on port {port} already" in words
    assert "is starting" not in words


def test_a_page_whose_server_ends_at_once_is_one_message(home: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    said: list[str] = []
    with pytest.raises(SicsrecError, match=r"of it ended before it answered, with exit status 3"):
        server._run_until_stopped(command, os.environ, server.free_port(), "it", "", said.append)
    assert not any("http" in line for line in said)


def test_a_server_ends_when_whoever_started_it_is_killed(tmp_path: Path) -> None:
    with started_server(WILLING, tmp_path) as (starter, started):
        starter.kill()
        starter.wait()
        assert psutil.wait_procs(started, timeout=10)[1] == []


SERVER_STARTER = """
import sys
from flows import server
from tasks.settings import Settings
with server.standing_prefect_server(Settings.from_environment(), int(sys.argv[1])):
    sys.exit("it was to be stopped before it answers")
"""


def test_sigterm_while_the_server_starts_leaves_none_behind(home: Path) -> None:
    command = [sys.executable, "-c", SERVER_STARTER, str(server.free_port())]
    environment = os.environ | {"SICSREC_HOME": str(home)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as starter:
        while not (children := psutil.Process(starter.pid).children()):
            assert starter.poll() is None, "it ended before its server began"
            time.sleep(0.02)
        starter.terminate()
        assert starter.wait(timeout=60) != 0
        psutil.wait_procs(children, timeout=10)
        assert not any(child.is_running() for child in children)


def test_the_database_is_no_argument_of_the_server_that_shows_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(server, "_run_until_stopped", lambda *given: started.append(given) or 0)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = Settings.from_environment()
    assert server.show_mlflow(settings, 1234, lambda _: None) == 0
    ((command, environment, *_),) = started
    uri = f"sqlite:///{home}/mlflow/mlflow.db"
    assert not any("mlflow.db" in part for part in command)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == uri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (None, ["sicsrec ui", "http://127.0.0.1:5000"]),
        ("http://alice:s3cret@127.0.0.1:9", ["http://127.0.0.1:9"]),
    ],
)
def test_a_run_is_shown_where_mlflow_is(
    uri: str | None, expected: list[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if uri is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    *commands, address = server.mlflow_run_page(Settings.from_environment(), "3", "abc")
    page, _, path = address.partition("/#/")
    assert [*commands, page] == expected
    assert path == "experiments/3/runs/abc?workflowType=machine_learning"


def test_how_to_run_names_the_page_that_a_browser_reaches() -> None:
    console = Console(file=StringIO(), width=200)
    print_how_to_run("http://server:4200/api", "https://prefect.example", console)
    assert "page: https://prefect.example/deployments" in console.file.getvalue()
