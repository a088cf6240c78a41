"""Everything that comes from the environment; nothing else reads it."""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from sicsrec.addresses import without_password
from sicsrec.cluster import Hosts
from sicsrec.disk_space import is_disk_full
from sicsrec.errors import ConfigError
from sicsrec.paths import check_utf8, expanded, nearest_existing

TEMPORARY_SERVER = "SICSREC_TEMPORARY_SERVER"
"""Set while the Prefect server in use is one that ends with the run."""

_SERVER_START = "SICSREC_SERVER_START_SECONDS"

_PREFECT_LEVELS = (
    "PREFECT_LOGGING_LEVEL",
    "PREFECT_SERVER_LOGGING_LEVEL",
    "PREFECT_LOGGING_SERVER_LEVEL",
)
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_LAST_PORT = 65_535
_NOT_IN_HOME = re.compile(r"\?|%[0-9A-Fa-f]{2}")

MLFLOW_URL = "http://127.0.0.1:5000"
"""Where ``sicsrec ui`` serves MLflow's pages unless told otherwise."""

GPU_LIMIT = "gpu"
"""Prefect's limit on steps that compute on a GPU at the same time, over all runs."""


@dataclass(frozen=True)
class Settings:
    """Where things lie and what computes."""

    home: Path
    """``SICSREC_HOME``: root of artifacts, MLflow and Prefect databases, logs; ``.sicsrec``."""
    device: str
    """``SICSREC_DEVICE``: ``auto`` (CUDA where there is one), ``cpu``, ``cuda:1``, ..."""
    mlflow_uri: str | None = field(repr=False)
    """``MLFLOW_TRACKING_URI``: another place than the database under the home. Not shown, as it
    may hold a password."""
    prefect_api_url: str | None = field(repr=False)
    """``PREFECT_API_URL``: a running Prefect server; None starts a temporary one per run. Not
    shown either."""
    n_processes: int = 1
    """``SICSREC_PROCESSES``: processes that train a sequence model together; 1. On CUDA one per
    device. With several hosts: on each."""
    hosts: Hosts | None = None
    """``SICSREC_HOSTS`` (how many) and ``SICSREC_TRAINING_ADDRESS`` (``host:port`` of the one that
    runs the pipeline): hosts that train a sequence model together; None: this one alone."""

    dask: str | None = None
    """``SICSREC_DASK``: who takes over parts of sampling and encoding: the address of a Dask
    scheduler, e.g. ``tcp://host:8786``, or ``local:4`` for four processes on this machine; None:
    nobody."""
    prefect_page: str | None = None
    """``PREFECT_UI_URL``, otherwise from the server's address: where a browser finds Prefect; None
    for a temporary server, which has no page."""
    mlflow_page: str | None = None
    """``SICSREC_MLFLOW_PAGE``, otherwise from ``MLFLOW_TRACKING_URI``: where a browser finds
    MLflow; None where no server is known."""
    shared_store: str | None = field(default=None, repr=False)
    """``SICSREC_SHARED_STORE``: storage through which machines share finished steps, as a URL of
    fsspec, e.g. ``s3://bucket/prefix``; None: nothing is shared. Not shown, as some kinds of URL
    may hold a password."""
    server_start_seconds: int = 120
    """``SICSREC_SERVER_START_SECONDS``: how long a Prefect server that is started here may take to
    answer; the first start makes a database."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read the settings from ``environment``, by default that of the process.

        Raises:
            ConfigError: if a variable has a value it cannot have.
        """
        values = os.environ if environment is None else environment
        for name in _PREFECT_LEVELS:
            _check_level(values, name)
        home = _home(values.get("SICSREC_HOME") or ".sicsrec")
        api_url = _address(values, "PREFECT_API_URL")
        mlflow_uri = _other_records(_address(values, "MLFLOW_TRACKING_URI"), home)
        return cls(
            home=home,
            device=_device(values.get("SICSREC_DEVICE") or "auto"),
            n_processes=_count(values, "SICSREC_PROCESSES", 1),
            hosts=_hosts(values, home),
            dask=values.get("SICSREC_DASK") or None,
            mlflow_uri=mlflow_uri,
            prefect_api_url=api_url,
            prefect_page=_page(
                values.get("PREFECT_UI_URL"),
                None if values.get(TEMPORARY_SERVER) else api_url,
            ),
            mlflow_page=_page(values.get("SICSREC_MLFLOW_PAGE"), mlflow_uri),
            shared_store=values.get("SICSREC_SHARED_STORE") or None,
            server_start_seconds=_count(values, _SERVER_START, cls.server_start_seconds),
        )

    @property
    def store_root(self) -> Path:
        """Folder of the artifact store."""
        return self.home / "artifacts"

    @property
    def report_folder(self) -> Path:
        """Folder of the pages on runs."""
        return self.home / "reports"

    @property
    def log_folder(self) -> Path:
        """Folder of the log files, one per run."""
        return self.home / "logs"

    def mlflow_run_page(self, experiment_id: str, run_id: str) -> str:
        """Return the address of a run's page, on MLflow's server or that of ``sicsrec ui``."""
        # Without the last part MLflow opens its pages around the tools for language models.
        path = f"experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
        return f"{self.mlflow_page or MLFLOW_URL}/#/{path}"

    def third_party_environment(self) -> dict[str, str]:
        """Return the variables that Prefect and MLflow read when they are imported.

        Their databases go below the home, nothing is sent anywhere, the library's log lines reach
        Prefect, and the terminal is left to whoever started the run.
        """
        return {
            "PREFECT_HOME": str(self.home / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(self.server_start_seconds),
            "PREFECT_LOGGING_EXTRA_LOGGERS": "sicsrec",
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
            # A whole event, a screen long, for each that a server that is gone was not told.
            "PREFECT_LOGGING_HANDLERS_DEBUG_LEVEL": "CRITICAL",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_LOGGING_LEVEL": "WARNING",
            # A server that is away is tried again by the outbox, not inside a call for minutes.
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
            # Its lines then go where those of all others go, not to the terminal besides.
            "MLFLOW_CONFIGURE_LOGGING": "false",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DO_NOT_TRACK": "1",
        }

    def check_home(self, environment: Mapping[str, str] | None = None) -> None:
        """Check that the home is named as a place that stays.

        A worker carries out each run in a temporary folder, where all output would be lost.

        Raises:
            ConfigError: if ``SICSREC_HOME`` is not set or not absolute.
        """
        values = os.environ if environment is None else environment
        named = values.get("SICSREC_HOME")
        if not named or not expanded(named, "SICSREC_HOME").is_absolute():
            raise ConfigError(
                f"SICSREC_HOME is {named!r} where this run is carried out; set it to an absolute "
                "path before `prefect worker start`, or in the job variables of the work pool"
            )

    def make_home(self) -> None:
        """Make the home when needed, and see that something can be written there.

        Raises:
            ConfigError: naming it and what is in the way; not where its disk is full, which those
                who write say better.
        """
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.home):
                pass
        except OSError as err:
            if is_disk_full(err, self.home):
                return
            raise ConfigError(
                f"nothing can be written to SICSREC_HOME={self.home}: {err.strerror}. Set "
                "SICSREC_HOME to a folder of yours"
            ) from err

    def apply(self) -> None:
        """Set these variables, except those that the user has set; before Prefect is imported.

        The home alone is always set, as one path for all processes that are started from here,
        whatever folder they are in. A level that is empty is taken away, as Prefect does not take
        it for one that is not set.
        """
        for name in _PREFECT_LEVELS:
            if not os.environ.get(name):
                os.environ.pop(name, None)
        for name, value in self.third_party_environment().items():
            os.environ.setdefault(name, value)
        os.environ["SICSREC_HOME"] = str(self.home)


def _home(named: str) -> Path:
    home = expanded(named, "SICSREC_HOME").resolve()
    check_utf8(str(home), "SICSREC_HOME")
    there = nearest_existing(home)
    if not there.is_dir():
        raise ConfigError(f"SICSREC_HOME is {home}, but {there} is a file; name a folder")
    if _NOT_IN_HOME.search(str(home)):
        raise ConfigError(
            f"SICSREC_HOME is {home}, but MLflow and Prefect name their databases and files there "
            "by addresses, in which ? and % before two digits mean something else; name another "
            "folder"
        )
    return home


def _address(values: Mapping[str, str], name: str) -> str | None:
    """Return an address, None where there is none.

    One that has no parts neither MLflow nor Prefect takes, and they say why with the password.
    """
    address = values.get(name) or None
    try:
        urlsplit(address or "")
    except ValueError:
        # Its message may hold the password, too.
        raise ConfigError(
            f"{name} is {without_password(str(address))!r}, which cannot be read as an address; in "
            "a password write [ as %5B and ] as %5D"
        ) from None
    return address


def _other_records(uri: str | None, home: Path) -> str | None:
    """Return the URI, but None for the database under the home, which MLflow's commands need."""
    address = urlsplit(uri or "")
    own = (home / "mlflow" / "mlflow.db").resolve()
    # A driver, as in sqlite+pysqlite, and options behind a question mark name the same file.
    is_sqlite = address.scheme.partition("+")[0] == "sqlite" and not address.netloc
    is_own = is_sqlite and Path(address.path.removeprefix("/")).resolve() == own
    return None if is_own else uri


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise ConfigError(
            f"SICSREC_DEVICE is {value!r}; expected auto, cpu, cuda, or one of several GPUs, such "
            "as cuda:1"
        )
    return value


def _count(values: Mapping[str, str], name: str, otherwise: int) -> int:
    text = values.get(name) or str(otherwise)
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{name} must be a whole number from 1 on, found {text!r}")
    return int(text)


def _check_level(values: Mapping[str, str], name: str) -> None:
    """Refuse a level that Prefect would not know.

    With one neither its server nor its client starts, and it says so as an error of its plugins.
    """
    level = values.get(name)
    if level and level.upper() not in _LEVELS:
        raise ConfigError(
            f"{name} is {level!r}, and Prefect knows the levels {', '.join(_LEVELS)}; set it to "
            "one of these, or unset it"
        )


def _hosts(values: Mapping[str, str], home: Path) -> Hosts | None:
    n_hosts = _count(values, "SICSREC_HOSTS", 1)
    if n_hosts == 1:
        return None
    address, _, port = (values.get("SICSREC_TRAINING_ADDRESS") or "").rpartition(":")
    is_port = port.isascii() and port.isdigit() and 0 < int(port) <= _LAST_PORT
    if not address or not is_port:
        raise ConfigError(
            f"SICSREC_HOSTS is {n_hosts}, so SICSREC_TRAINING_ADDRESS must say where they meet: "
            "this host, as the others reach it, and a free port, e.g. 10.0.0.1:29400"
        )
    return Hosts(n_hosts, address, int(port), home)


def _page(named: str | None, server: str | None) -> str | None:
    """Return the address of a server's pages, without a password: links to it are shown."""
    if named:
        return without_password(named).rstrip("/")
    if server is None or not server.startswith(("http://", "https://")):
        return None
    return without_password(server).rstrip("/").removesuffix("/api")


def read_secret(name: str) -> str | None:
    """Return the value of an environment variable that the configuration names as a secret's.

    Read when it is used and kept nowhere, so it reaches no record; None when unset or empty.
    """
    return os.environ.get(name) or None
