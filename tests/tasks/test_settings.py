from pathlib import Path

import pytest

from sicsrec.errors import ConfigError
from tasks.settings import Settings, read_secret


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_environment({})
    assert settings == Settings(tmp_path / ".sicsrec", "auto", None, None)
    assert settings.store_root == tmp_path / ".sicsrec" / "artifacts"


def test_everything_can_be_named() -> None:
    settings = Settings.from_environment(
        {
            "SICSREC_HOME": "/somewhere",
            "SICSREC_DEVICE": "cuda:1",
            "SICSREC_PROCESSES": "4",
            "SICSREC_DASK": "local:2",
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
            "PREFECT_API_URL": "http://127.0.0.1:4200/api",
        }
    )
    assert settings.home == Path("/somewhere")
    assert settings.device == "cuda:1"
    assert settings.n_processes == 4
    assert settings.dask == "local:2"
    assert settings.mlflow_uri == "http://127.0.0.1:5000"
    assert settings.prefect_api_url == "http://127.0.0.1:4200/api"


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "²"])
def test_a_number_of_processes_that_cannot_be_is_named(value: str) -> None:
    with pytest.raises(ConfigError, match="SICSREC_PROCESSES must be a whole number"):
        Settings.from_environment({"SICSREC_PROCESSES": value})


def test_variables_of_the_user_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", "/mine")
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    Settings.from_environment({"SICSREC_HOME": "/somewhere"}).apply()
    import os

    assert os.environ["PREFECT_HOME"] == "/mine"
    assert os.environ["DO_NOT_TRACK"] == "1"


def test_a_secret_is_read_by_its_name(monkeypatch):
    monkeypatch.setenv("SICSREC_TEST_SECRET", "value")
    assert read_secret("SICSREC_TEST_SECRET") == "value"
    monkeypatch.setenv("SICSREC_TEST_SECRET", "")
    assert read_secret("SICSREC_TEST_SECRET") is None
    monkeypatch.delenv("SICSREC_TEST_SECRET")
    assert read_secret("SICSREC_TEST_SECRET") is None
