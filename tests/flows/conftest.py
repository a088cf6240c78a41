"""A pipeline small enough to run in seconds, and a home of a test's own."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prefect.settings import PREFECT_API_URL

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
def launcher(prefect_server: None) -> "Iterator[Launcher]":
    """Starts runs of the command line in processes of their own, in little time."""
    from tests.flows.runs import launching

    with launching(heavy=False, PREFECT_API_URL=str(PREFECT_API_URL.value())) as started:
        yield started


@pytest.fixture(autouse=True)
def _keep_signal_handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path, prefect_database: Path
) -> Path:
    """A home of the test's own, and a database for the server that it may start."""
    folder = tmp_path / "home"
    shutil.copytree(empty_database, folder / "mlflow")
    monkeypatch.setenv("SICSREC_HOME", str(folder))
    return folder
