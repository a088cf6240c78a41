"""A temporary Prefect server for one run, started while everything else is still being imported.

Prefect can start one by itself, but only after importing its whole server into the client, and
then one waits for it.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

from flows.following import end, start_following
from sicsrec.addresses import ask, without_password
from sicsrec.errors import ConfigError, SicsrecError
from sicsrec.runs import killed_processes
from tasks.settings import MLFLOW_URL, TEMPORARY_SERVER, Settings

PREFECT_URL = "http://127.0.0.1:4200"
LEASES_ON_DISK = "prefect.server.concurrency.lease_storage.filesystem"
"""Prefect's module that keeps in its home who holds a place under a limit."""

_NOT_NEEDED = (
    "SCHEDULER",
    "LATE_RUNS",
    "FOREMAN",
    "CANCELLATION_CLEANUP",
    "PAUSE_EXPIRATIONS",
    "TRIGGERS",
    "REPOSSESSOR",
    "CLEANUP_RECONCILER",
    "DB_VACUUM",
)
"""Services of the server that serve schedules, workers and automations, none of which a single run
has."""

_RETRIES = "2"
"""How often a client asks the temporary server again. It comes back after a slow answer, never
after its end; five times, as Prefect has it, are a minute for every call that an end makes fail."""


class TemporaryServer:
    """Prefect's server on a free port of the loopback, for as long as a ``with`` block.

    Entering only starts the process; :meth:`wait` waits until it answers.

    Args:
        log: file that takes what the server prints.
        start_seconds: how long it may take to answer; the first start makes a database.
    """

    def __init__(self, log: Path, start_seconds: float) -> None:
        self.log = log
        self.start_seconds = start_seconds
        self.port = free_port()

    @property
    def api_url(self) -> str:
        """Address for ``PREFECT_API_URL``."""
        return f"http://127.0.0.1:{self.port}/api"

    def __enter__(self) -> Self:
        """Start the server's process."""
        environment = dict(os.environ)
        environment.pop("PREFECT_API_URL", None)
        environment |= {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _NOT_NEEDED}
        environment |= {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as stream:
            # A session of its own: Ctrl-C is for the run, which then still reports to the server.
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "flows.server_process", str(self.port)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        return self

    def wait(self) -> None:
        """Wait until the server answers.

        Raises:
            SicsrecError: if it ends or does not answer in time.
        """
        try:
            _wait_until_answering(self.api_url, self._process, self.start_seconds)
        except SicsrecError as err:
            raise SicsrecError(
                f"the temporary Prefect server {err}; what it printed is in {self.log}. A server "
                "of yours can be named with PREFECT_API_URL"
            ) from err

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def prefect_server(settings: Settings, log: Path) -> Iterator[TemporaryServer | None]:
    """Start a temporary server unless the settings name a running one."""
    if settings.prefect_api_url is not None:
        yield None
        return
    with TemporaryServer(log, settings.server_start_seconds) as server:
        own = {"PREFECT_API_URL": server.api_url, TEMPORARY_SERVER: "1"}
        if "PREFECT_CLIENT_MAX_RETRIES" not in os.environ:
            own["PREFECT_CLIENT_MAX_RETRIES"] = _RETRIES
        os.environ |= own
        try:
            yield server
        finally:
            for name in own:
                del os.environ[name]


@contextmanager
def standing_prefect_server(settings: Settings, port: int | None) -> Iterator[str]:
    """Yield the address of the server in use, or start one with a page on the loopback.

    Raises:
        ConfigError: if a port is given where no server is started.
        SicsrecError: if the named server does not answer or refuses, or the own one does not start.
    """
    if settings.prefect_api_url is not None:
        _check_no_port(port, "PREFECT_API_URL", settings.prefect_api_url)
        if not is_answering(settings.prefect_api_url):
            raise SicsrecError(
                "no Prefect server answers under PREFECT_API_URL="
                f"{without_password(settings.prefect_api_url)}. "
                "Start it, or unset the variable and one is started here"
            )
        _close_what_was_killed(settings, settings.prefect_api_url)
        yield settings.prefect_api_url
        return
    chosen = port or _default_port(PREFECT_URL)
    api_url = f"http://127.0.0.1:{chosen}/api"
    if is_answering(api_url):
        raise SicsrecError(
            f"a Prefect server answers on port {chosen} already. To use it, set "
            f"PREFECT_API_URL={api_url}; for one of its own, give --port"
        )
    _check_free(chosen)
    log = settings.log_folder / "prefect-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    stop_on_sigterm()
    with log.open("ab") as stream:
        process = start_following(
            _prefect_command(chosen), _prefect_environment(chosen), stdout=stream, stderr=stream
        )
    try:
        try:
            _wait_until_answering(api_url, process, settings.server_start_seconds)
        except SicsrecError as err:
            raise SicsrecError(
                f"the Prefect server on port {chosen} {err}; what it printed is in {log}"
            ) from err
        os.environ["PREFECT_API_URL"] = api_url
        _close_what_was_killed(settings, api_url)
        yield api_url
    finally:
        end(process)


def show_prefect(settings: Settings, port: int | None, say: Callable[[str], None]) -> int:
    """Serve Prefect's page over the past runs until stopped; return the exit status.

    Raises:
        ConfigError: if a port is given where no server is started.
        SicsrecError: if the server does not start.
    """
    if settings.prefect_api_url is not None:
        _check_no_port(port, "PREFECT_API_URL", settings.prefect_api_url)
        say(f"Prefect: {settings.prefect_page or without_password(settings.prefect_api_url)}")
        return 0
    chosen = port or _default_port(PREFECT_URL)
    return _run_until_stopped(
        _prefect_command(chosen), _prefect_environment(chosen), chosen, "Prefect", "/runs", say
    )


def show_mlflow(settings: Settings, port: int | None, say: Callable[[str], None]) -> int:
    """Serve MLflow's page over the past runs until stopped; return the exit status.

    Raises:
        ConfigError: if a port is given where no server is started.
        SicsrecError: if the server does not start.
    """
    if settings.mlflow_uri is not None and settings.mlflow_uri.startswith("http"):
        _check_no_port(port, "MLFLOW_TRACKING_URI", settings.mlflow_uri)
        say(f"MLflow: {settings.mlflow_page}")
        return 0
    from sicsrec.tracking.mlflow_store import MlflowStore

    store = MlflowStore(settings.home, settings.mlflow_uri)
    store.close_abandoned(killed_processes(settings.store_root))
    chosen = port or _default_port(MLFLOW_URL)
    return _run_until_stopped(
        [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--host", "127.0.0.1", "--port", str(chosen)),
            *("--default-artifact-root", (settings.home / "mlflow" / "artifacts").as_uri()),
        ],
        # Not an argument: all users of a machine see those, and it may hold a password.
        os.environ | {"MLFLOW_BACKEND_STORE_URI": store.uri},
        chosen,
        "MLflow",
        "",
        say,
    )


def stop_on_sigterm() -> None:
    """Let SIGTERM do what Ctrl-C does, so that servers end and records are closed."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _close_what_was_killed(settings: Settings, api_url: str) -> None:
    # Known before it is noted: then it counts as killed no longer.
    gone = killed_processes(settings.store_root)
    close_killed_records(settings, gone)
    crash_killed_flow_runs(api_url, gone)


def close_killed_records(settings: Settings, gone: Collection[Mapping[str, str]]) -> None:
    """Let runs that were killed say so in MLflow, which is imported only when there are some.

    In a home of somebody else, where nothing can be noted, nothing is.

    Args:
        settings: of the home.
        gone: tags of their processes, see :func:`sicsrec.runs.killed_processes`.

    Raises:
        TrackingError: if it cannot be reached.
    """
    if gone and os.access(settings.home, os.W_OK):
        from tasks.record import close_abandoned_records

        close_abandoned_records(gone)


def crash_killed_flow_runs(api_url: str, gone: Collection[Mapping[str, str]]) -> None:
    """Let runs that were killed say so to the Prefect server, which answers.

    Args:
        api_url: of the server.
        gone: tags of processes of other hosts that are known to be dead; those of this host are
            looked for.

    Raises:
        SicsrecError: if the server refuses.
    """
    from tasks.process_end import crash_abandoned_flow_runs

    with naming_refusals(api_url):
        crash_abandoned_flow_runs(gone)


@contextmanager
def naming_refusals(api_url: str) -> Iterator[None]:
    """Say which server answers with an error, and what to do, where Prefect's client says neither.

    That a server says it is well does not mean that it lets anybody in: it is asked for that
    without authorisation.

    Raises:
        SicsrecError: in place of what Prefect's client raises.
    """
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        yield
    except PrefectHTTPStatusError as err:
        status = err.response.status_code
        advice = (
            "set PREFECT_API_AUTH_STRING to what the server was started with"
            if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
            else "its log says why"
        )
        raise SicsrecError(
            f"the Prefect server PREFECT_API_URL={without_password(api_url)} answers with HTTP "
            f"status {status}; {advice}"
        ) from err


def _wait_until_answering(
    api_url: str, process: subprocess.Popen[bytes], start_seconds: float
) -> None:
    """Wait for a server that was started.

    Raises:
        SicsrecError: saying what it did instead, if it ends or does not answer in time.
    """
    deadline = time.monotonic() + start_seconds
    while not is_answering(api_url):
        if process.poll() is not None:
            raise SicsrecError("ended before it answered")
        if time.monotonic() > deadline:
            raise SicsrecError(
                f"did not answer within {start_seconds:g} seconds, which "
                "SICSREC_SERVER_START_SECONDS allows it"
            )
        time.sleep(0.1)


def _prefect_command(port: int) -> list[str]:
    # Prefect makes its home, but not the folders above it.
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    return [
        *(sys.executable, "-m", "prefect", "server", "start"),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]


def _prefect_environment(port: int) -> dict[str, str]:
    """Return the environment of a server with a page; what the user has set wins."""
    return {
        # By itself the page asks port 4200, whatever the port it comes from.
        "PREFECT_UI_API_URL": f"http://127.0.0.1:{port}/api",
        # So that `prefect deployment run --watch` shows log lines, and with them what went wrong.
        "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",
        "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
        # By itself it forgets with its process who holds a place under a limit, and the place is
        # never given back.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES_ON_DISK,
        **os.environ,
    }


def _run_until_stopped(
    command: list[str],
    environment: dict[str, str],
    port: int,
    name: str,
    page: str,
    say: Callable[[str], None],
) -> int:
    """Serve a page until somebody stops it, and say where it is once it is there.

    Raises:
        SicsrecError: if the port is taken, or the server ends before it answers.
    """
    _check_free(port)
    stop_on_sigterm()
    say(f"{name} is starting  (Ctrl-C stops it)")
    process = start_following(command, environment, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None and not _is_listening(port):
            time.sleep(0.1)
        if process.poll() is not None:
            raise SicsrecError(
                f"the server of {name} ended before it answered, with exit status "
                f"{process.returncode}; what it printed stands above"
            )
        say(f"{name}: http://127.0.0.1:{port}{page}")
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        end(process)


def _check_no_port(port: int | None, variable: str, url: str) -> None:
    """Refuse a port where a variable names the server, so that none is started here.

    Raises:
        ConfigError: naming both.
    """
    if port is not None:
        raise ConfigError(
            f"--port {port} is for a server that is started here, but {variable}="
            f"{without_password(url)} names one; leave --port out, or unset {variable}"
        )


def _check_free(port: int) -> None:
    """Refuse a port that another program has: its page would be taken for that of the server.

    Raises:
        SicsrecError: naming the port.
    """
    if _is_listening(port):
        raise SicsrecError(
            f"another program listens on port {port} already, maybe the same command in another "
            "terminal; end it, or give another port with --port"
        )


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _default_port(url: str) -> int:
    return urllib.parse.urlsplit(url).port or 80


def is_answering(api_url: str) -> bool:
    """Whether a Prefect server answers under this address."""
    try:
        return ask(f"{api_url.rstrip('/')}/health", timeout_seconds=2.0) == 200
    except ConnectionError:
        return False


def free_port() -> int:
    """Return a port of the loopback that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def mlflow_run_page(settings: Settings, experiment_id: str, run_id: str) -> tuple[str, ...]:
    """Return how to come to a run's page in MLflow: a command where one is needed, its address."""
    page = settings.mlflow_run_page(experiment_id, run_id)
    return ("sicsrec ui", page) if settings.mlflow_page is None else (page,)
