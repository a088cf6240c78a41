"""The Prefect server, or a process that serves deployments, is killed in the middle of a run."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient

from flows.server import _prefect_command, _prefect_environment, free_port, is_answering
from tasks.settings import GPU_LIMIT
from tests.flows.runs import OVERRIDES, REPOSITORY, artifacts_of, left_behind, new_home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SICSREC = [sys.executable, "-c", "from flows.cli import app; app()"]
HOLD = """
import time
from flows.deployments import limit_gpu_work
from tasks._run import hold_gpu
limit_gpu_work()
with hold_gpu():
    print("held", flush=True)
    time.sleep(600)
"""
EARLY = [*OVERRIDES, "--until", "sample_pairs"]


def environment(home: Path, **further: str) -> dict[str, str]:
    """Return an environment without the settings of the tests' own Prefect server."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return own | {"SICSREC_HOME": str(home), "COLUMNS": "80"} | further


def start(arguments: list[str], output: Path, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    with output.open("ab") as stream:
        return subprocess.Popen(
            [*SICSREC, *arguments],
            cwd=REPOSITORY, env=variables, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL,
        )  # fmt: skip


def wait_for(condition: Callable[[], object], output: Path, seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.05)


def children(pid: int, words: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if words in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def undisturbed(folder: Path, empty_database: Path) -> dict[str, dict[str, str]]:
    home = new_home(folder / "undisturbed", empty_database)
    output = folder / "undisturbed.txt"
    assert start(["run", *EARLY], output, environment(home)).wait() == 0, output.read_text()
    return artifacts_of(home)


def test_run_whose_temporary_server_is_killed_says_so_and_goes_on_next_time(
    tmp_path: Path, empty_database: Path
) -> None:
    home, output = new_home(tmp_path / "home", empty_database), tmp_path / "said.txt"
    run = start(["run", *EARLY], output, environment(home))
    wait_for(lambda: "ingest: ran" in output.read_text(), output)
    (server,) = children(run.pid, "flows.server_process")
    server.kill()
    assert run.wait() == 1
    said = " ".join(output.read_text().replace("│", " ").split())
    # Only the end of the run needs the server.
    assert "sample_pairs: ran" in said
    assert said.count("stopped answering during the run") == 1
    assert "run the same command again" in said
    assert "Traceback" not in said

    again = tmp_path / "again.txt"
    assert start(["run", *EARLY], again, environment(home)).wait() == 0, again.read_text()
    assert left_behind(home) == []
    assert artifacts_of(home) == undisturbed(tmp_path, empty_database)


@pytest.mark.parametrize("page", [["--prefect"], []])
def test_a_page_that_is_told_to_stop_leaves_no_server(page: list[str], tmp_path: Path) -> None:
    output, port = tmp_path / "said.txt", free_port()
    process = start(["ui", *page, "--port", str(port)], output, environment(tmp_path / "home"))

    def is_served() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for(is_served, output)
    process.terminate()
    assert process.wait() == 0
    wait_for(lambda: not is_served(), output, 30.0)


def test_a_place_on_the_gpu_comes_back_after_server_and_step_were_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    output, port = tmp_path / "said.txt", free_port()
    mine = environment(tmp_path / "home", PREFECT_HOME=str(tmp_path / "prefect"))
    api_url = f"http://127.0.0.1:{port}/api"

    def run(command: list[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
        with output.open("ab") as stream:
            return subprocess.Popen(
                command, cwd=REPOSITORY, env=variables, stdout=stream, stderr=stream
            )

    def start_server() -> subprocess.Popen[bytes]:
        server = run(_prefect_command(port), _prefect_environment(port) | mine)
        wait_for(lambda: is_answering(api_url), output)
        return server

    def places_taken() -> int:
        with SyncPrefectClient(api_url) as client:
            return client.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots

    server = start_server()
    holder = run([sys.executable, "-c", HOLD], mine | {"PREFECT_API_URL": api_url})
    wait_for(lambda: "held" in output.read_text(), output)
    assert places_taken() == 1
    for process in (server, holder):
        process.kill()
        process.wait()
    server = start_server()
    try:
        assert places_taken() == 1
        wait_for(lambda: places_taken() == 0, output, 240.0)
    finally:
        server.terminate()
        server.wait()
