"""Settings for all tests: nothing leaves the machine, homes are temporary, draws are seeded."""

import atexit
import ipaddress
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings

REPOSITORY = Path(__file__).parents[1]

_HOME = Path(tempfile.mkdtemp(prefix="sicsrec-tests-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)

# Prefect, MLflow and torch read these when they are imported, so they are set before any test is.
os.environ |= {
    "SICSREC_HOME": str(_HOME / "home"),
    "SICSREC_DEVICE": "cpu",
    "PREFECT_HOME": str(_HOME / "prefect"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "sicsrec",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
    os.environ.pop(name, None)
# What is compared bit by bit runs in processes of its own as well, and Dask gives those one thread;
# another number of threads adds up in another order.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine makes no test wrong.
settings.register_profile("without_deadline", deadline=None)
settings.load_profile("without_deadline")

_connect = socket.socket.connect


def _connect_on_this_machine(self: socket.socket, address: object) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple):
        host = str(address[0])
        if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
            raise PermissionError(f"a test tried to reach {host}; tests stay on this machine")
    _connect(self, address)


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", _connect_on_this_machine)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global generator is what is to be pinned


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of other people's data, which is not part of the project."""
    folder = Path(os.environ.get("SICSREC_TEST_DATA") or REPOSITORY / "../shared/data").resolve()
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}; set SICSREC_TEST_DATA to the folder of the real data")
    return folder


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first of the test processes makes and the others find."""
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            making = folder.with_name(f".{folder.name}")
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            make(making)
            making.rename(folder)
    return folder


@pytest.fixture(scope="session")
def prefect_database(pytestconfig: pytest.Config) -> Path:
    """Prefect's database without runs, and also the start of the one in ``PREFECT_HOME``.

    Its hundred migrations take ten seconds of processor time, which every server on a new home
    would need again, so what one version of Prefect made is kept between sessions.
    """

    def make(folder: Path) -> None:
        subprocess.run(
            [Path(sys.executable).parent / "prefect", "server", "database", "upgrade", "--yes"],
            env=os.environ | {"PREFECT_HOME": str(folder)},
            check=True,
            capture_output=True,
        )

    kept = pytestconfig.cache.mkdir("prefect") / version("prefect")
    database = made_once(kept, make) / "prefect.db"
    own = Path(os.environ["PREFECT_HOME"]) / "prefect.db"
    own.parent.mkdir(exist_ok=True)
    shutil.copyfile(database, own)
    return database


@pytest.fixture(scope="session")
def prefect_server(
    prefect_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A server for all tests of a process that look at what flows and tasks left."""
    from prefect.testing.utilities import prefect_test_harness

    folder = tmp_path_factory.mktemp("prefect-server")
    shutil.copyfile(prefect_database, folder / "prefect-test.db")
    # The harness makes its database in a new folder; here it finds one there.
    with (
        patch("prefect.testing.utilities.mkdtemp", return_value=str(folder)),
        prefect_test_harness(server_startup_timeout=90),
    ):
        yield


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an MLflow database without runs; making one takes seconds, copying none."""
    from sicsrec.tracking.mlflow_store import MlflowStore

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    return made_once(root / "mlflow", MlflowStore) / "mlflow"
