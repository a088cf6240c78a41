"""A real Prefect server, and what carries out runs, in processes of their own on the loopback."""

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import Artifact, FlowRun, TaskRun
from prefect.client.schemas.sorting import LogSort, TaskRunSort

from flows.server import free_port, is_answering
from sicsrec.steps import STEP_NAMES
from tests.flows.conftest import SMALL

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_SECONDS = 240.0
"""How long a process may take to start on a busy machine."""


@dataclass
class Finished:
    """A finished ``prefect deployment run --watch`` and what the server knows of the run."""

    code: int
    output: str
    flow_run: FlowRun
    tasks: list[TaskRun]
    artifacts: list[Artifact]
    lines: list[str]

    @property
    def states(self) -> dict[str, str]:
        """Name of each step that ran to the name of its final state, in order."""
        named = ((run.name.split()[0], run.state_name or "") for run in self.tasks)
        return {name: state for name, state in named if name in STEP_NAMES}


@dataclass
class Operation:
    """A Prefect server with a home of its own."""

    home: Path
    prefect_home: Path
    port: int = field(default_factory=free_port)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def environment(self) -> dict[str, str]:
        """What a user's shell would hold; nothing of the test session's own settings."""
        kept = {name: value for name, value in os.environ.items() if "PREFECT" not in name}
        return kept | {
            "SICSREC_HOME": str(self.home),
            "PREFECT_HOME": str(self.prefect_home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PYTHONPATH": str(REPOSITORY),
            "COLUMNS": "200",
        }

    def start(self, *command: str | Path, with_server: bool = True) -> subprocess.Popen[bytes]:
        """Start a process that ends with the test."""
        environment = self.environment | ({"PREFECT_API_URL": self.api_url} if with_server else {})
        name = "-".join(Path(word).name for word in command[:3])
        with (self.home / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def start_server(self) -> None:
        self.prefect_home.mkdir(parents=True, exist_ok=True)
        address = ("--host", "127.0.0.1", "--port", str(self.port))
        self.start(BIN / "prefect", "server", "start", *address, with_server=False)
        self.wait_for(lambda: is_answering(self.api_url), "the server answers")

    def deploy(self) -> None:
        """Make a work pool and register the deployments of docker/prefect.yaml with it."""
        for words in (
            ("work-pool", "create", "--type", "process", "sicsrec"),
            ("--no-prompt", "deploy", "--all", "--prefect-file", "docker/prefect.yaml"),
        ):
            done = self.prefect(*words)
            assert done.returncode == 0, done.stdout + done.stderr

    def start_worker(self) -> subprocess.Popen[bytes]:
        return self.start(BIN / "prefect", "worker", "start", "--pool", "sicsrec")

    def wait_for(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            for process in self.processes:
                assert process.poll() is None, f"{process.args} ended: {self.logs()}"
            assert time.monotonic() < deadline, f"waited too long until {what}: {self.logs()}"
            time.sleep(0.5)

    def logs(self) -> str:
        return "\n".join(f"{path}:\n{path.read_text()}" for path in self.home.glob("*.log"))

    def client(self) -> SyncPrefectClient:
        return SyncPrefectClient(self.api_url)

    def prefect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Call Prefect's command line against the server."""
        return subprocess.run(
            [BIN / "prefect", *arguments],
            env=self.environment | {"PREFECT_API_URL": self.api_url},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
            timeout=START_SECONDS,
        )

    def sicsrec(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Call the command line of this project against the server."""
        return subprocess.run(
            [BIN / "sicsrec", *arguments],
            env=self.environment | {"PREFECT_API_URL": self.api_url},
            capture_output=True,
            text=True,
            check=False,
            timeout=START_SECONDS,
        )

    def deployments(self) -> dict[str, Any]:
        with self.client() as client:
            return {entry.name: entry for entry in client.read_deployments()}

    def run(self, name: str, overrides: list[str] = SMALL, **parameters: object) -> Finished:
        """Run a deployment as a person does, wait, and read back what the server knows of it."""
        done, flow_run_id = self._ask(name, {"overrides": overrides, **parameters}, "--watch")
        return self._read(flow_run_id, done.returncode, done.stdout + done.stderr)

    def begin(self, name: str, overrides: list[str] = SMALL, **parameters: object) -> uuid.UUID:
        """Ask for a run of a deployment and go on."""
        return self._ask(name, {"overrides": overrides, **parameters})[1]

    def _ask(
        self, name: str, parameters: dict[str, object], *options: str
    ) -> tuple[subprocess.CompletedProcess[str], uuid.UUID]:
        words = [
            word
            for key, value in parameters.items()
            for word in ("--param", f"{key}={json.dumps(value)}")
        ]
        done = self.prefect("deployment", "run", f"sicsrec/{name}", *words, *options)
        found = re.search(r"UUID: ([0-9a-f-]{36})", done.stdout + done.stderr)
        assert found is not None, done.stdout + done.stderr
        return done, uuid.UUID(found[1])

    def state_of(self, flow_run_id: uuid.UUID) -> str:
        """Return the name of the state that the server has of a run."""
        with self.client() as client:
            return client.read_flow_run(flow_run_id).state_name or ""

    def kill(self, process: subprocess.Popen[bytes], *, with_children: bool) -> None:
        """Send SIGKILL to a process, and to those that it started when told to."""
        parts = [psutil.Process(process.pid)]
        if with_children:
            parts += parts[0].children(recursive=True)
        for part in parts:
            part.kill()
        process.wait()
        self.processes.remove(process)

    def _read(self, flow_run_id: uuid.UUID, code: int, output: str) -> Finished:
        mine = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
        with self.client() as client:
            for _ in range(150):
                tasks = client.read_task_runs(
                    flow_run_filter=mine, sort=TaskRunSort.ID_DESC, limit=50
                )
                if all(run.state is not None and run.state.is_final() for run in tasks):
                    break
                time.sleep(0.2)
            return Finished(
                code,
                output,
                client.read_flow_run(flow_run_id),
                sorted(tasks, key=lambda run: str(run.expected_start_time)),
                client.read_artifacts(
                    artifact_filter=ArtifactFilter(
                        flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id])
                    ),
                    limit=100,
                ),
                [
                    log.message
                    for log in client.read_logs(
                        LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id])),
                        sort=LogSort.TIMESTAMP_ASC,
                        limit=200,
                        offset=0,
                    )
                ],
            )

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def operation(home: Path, prefect_home: Path | None = None) -> Iterator[Operation]:
    """Stop at the end of the block whatever was started in it."""
    home.mkdir(parents=True, exist_ok=True)
    started = Operation(home, prefect_home or home / "prefect")
    try:
        yield started
    finally:
        started.stop()
