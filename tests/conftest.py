"""Settings for all tests: nothing leaves the machine, homes are temporary, draws are seeded."""

import atexit
import ipaddress
import os
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
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
