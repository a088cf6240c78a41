"""One Prefect server for all flow tests, and a pipeline small enough to run in seconds."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from sicsrec.tracking.mlflow_store import MlflowStore

if TYPE_CHECKING:
    from tests.flows.runs import Launcher

SMALL = [
    "ingest.reader.n_items=60",
    "ingest.reader.n_users=80",
    "align_encoders.text_encoder.architecture={width: 16, n_layers: 1, n_heads: 1}",
    "align_encoders.image_encoder.architecture="
    "{width: 16, n_layers: 1, n_heads: 1, image_size: 32}",
    "align_encoders.n_epochs=1",
    *(
        f"{step}.{change}"
        for step in ("pretrain_id", "train_sicsrec")
        for change in ("width=16", "inner_width=16", "n_layers=1", "n_heads=1", "max_epochs=2")
    ),
    "evaluate.n_bootstrap=20",
]
"""Overrides of the preset ``demo``."""


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=90):
        yield


@pytest.fixture(scope="session")
def launcher(prefect_server: None) -> "Iterator[Launcher]":
    """Starts runs of the command line in processes of their own, in little time."""
    from tests.flows.runs import launching

    with launching(heavy=False, PREFECT_API_URL=str(PREFECT_API_URL.value())) as started:
        yield started


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs; making one takes seconds, copying none."""
    folder = tmp_path_factory.mktemp("mlflow")
    MlflowStore(folder)
    return folder / "mlflow"


@pytest.fixture(autouse=True)
def _keep_signal_handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Path:
    """A home of the test's own."""
    folder = tmp_path / "home"
    shutil.copytree(empty_database, folder / "mlflow")
    monkeypatch.setenv("SICSREC_HOME", str(folder))
    return folder
