"""One Prefect server for all flow tests, and a pipeline small enough to run in seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness

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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("SICSREC_HOME", str(folder))
    return folder
