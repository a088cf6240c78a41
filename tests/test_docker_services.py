"""The services of the compose file, started here as processes: same commands, same variables.

What an engine would give is put in by hand: names of machines, folders, and PostgreSQL, which has
to be installed.
"""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from tests.conftest import REPOSITORY

COMPOSE = REPOSITORY / "docker" / "compose.yaml"
PASSWORD = "between4walls"  # noqa: S105 - of a database that lives for a test

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("initdb") is None, reason="PostgreSQL is not installed"),
]


pytest.importorskip("psycopg2", reason="needs the extra `postgres`")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def services_on_this_machine(home, ports):
    """The services with variables filled in and the containers' places replaced by ours."""
    text = COMPOSE.read_text(encoding="utf-8")
    text = re.sub(r"\$\{POSTGRES_PASSWORD:\?[^}]*\}", PASSWORD, text)
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    for ours, theirs in (
        (f"127.0.0.1:{ports['postgres']}/", "postgres:5432/"),
        (f"http://127.0.0.1:{ports['prefect']}", "http://prefect:4200"),
        (f"http://127.0.0.1:{ports['mlflow']}", "http://mlflow:5000"),
        ("127.0.0.1", "0.0.0.0"),  # noqa: S104 - what is taken out
        (str(home), "/home/sicsrec/home"),
        (str(REPOSITORY), "/opt/sicsrec"),
        (str(ports["prefect"]), "4200"),
        (str(ports["mlflow"]), "5000"),
        (str(ports["worker"]), "8080"),
    ):
        text = text.replace(theirs, ours)
    return yaml.safe_load(text)["services"]


@contextmanager
def running(command, log, **arguments):
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, **arguments
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def postgres(port):
    """PostgreSQL as its image starts it: a user, a first database, then the files mounted there."""
    folder = Path(tempfile.mkdtemp(prefix="sicsrec-postgres-"))
    try:
        as_user = {}
        if os.geteuid() == 0:  # which PostgreSQL refuses
            shutil.chown(folder, "postgres", "postgres")
            as_user = {"user": "postgres", "group": "postgres", "cwd": folder}
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        access = ("--auth", "scram-sha-256", "--username", "sicsrec", "--pwfile", str(secret))
        data = folder / "data"
        subprocess.run(["initdb", "-D", str(data), *access], check=True, stdout=-3, **as_user)
        command = ["postgres", "-D", str(data), "-p", str(port), "-k", str(folder)]
        with running(
            [*command, "-h", "127.0.0.1"], folder.parent / f"{folder.name}.log", **as_user
        ):
            address = ("-h", "127.0.0.1", "-p", str(port), "-U", "sicsrec")
            wait_for(["pg_isready", *address, "-d", "postgres"])
            environment = os.environ | {"PGPASSWORD": PASSWORD}
            for statements in (("-c", "CREATE DATABASE prefect"), ("-f", "docker/databases.sql")):
                subprocess.run(
                    ["psql", "-q", *address, "-d", "postgres", *statements],
                    check=True, env=environment, cwd=REPOSITORY,
                )  # fmt: skip
            yield address
    finally:
        shutil.rmtree(folder)
        Path(f"{folder}.log").unlink(missing_ok=True)


def wait_for(command, process=None, log=None):
    deadline = time.monotonic() + 300
    while subprocess.run(command, capture_output=True).returncode:
        assert process is None or process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log and log.read_text()[-3000:]
        time.sleep(1)


def test_services_start_become_healthy_and_know_the_deployments(tmp_path):
    ports = {name: free_port() for name in ("postgres", "prefect", "mlflow", "worker")}
    services = services_on_this_machine(tmp_path, ports)
    plain = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_", "SICSREC_"))
    }
    plain |= {"PREFECT_HOME": str(tmp_path / "prefect"), "SICSREC_HOME": str(tmp_path)}
    with ExitStack() as stack:
        address = stack.enter_context(postgres(ports["postgres"]))
        health = services["postgres"]["healthcheck"]["test"][1:]
        wait_for([*health, *address[:4]])
        for name in ("prefect", "mlflow", "worker"):
            service, log = services[name], tmp_path / f"{name}.log"
            command = [*service["entrypoint"], *service["command"]]
            environment = {key: str(value) for key, value in service["environment"].items()}
            process = stack.enter_context(
                running(command, log, env=plain | environment, cwd=REPOSITORY)
            )
            wait_for(service["healthcheck"]["test"][1:], process, log)
            assert PASSWORD not in log.read_text()
        api = services["worker"]["environment"]["PREFECT_API_URL"]
        deployments = httpx.post(f"{api}/deployments/filter", json={}).raise_for_status().json()
    assert "full-pipeline" in {deployment["name"] for deployment in deployments}
    assert {deployment["work_pool_name"] for deployment in deployments} == {"sicsrec"}
