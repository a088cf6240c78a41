import os
import traceback
from pathlib import Path

import pytest

from sicsrec.cluster import Hosts
from sicsrec.errors import ConfigError
from tasks.settings import TEMPORARY_SERVER, Settings, read_secret


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_environment({})
    assert settings == Settings(tmp_path / ".sicsrec", "auto", None, None)
    assert settings.store_root == tmp_path / ".sicsrec" / "artifacts"


def test_the_home_may_be_named_from_that_of_the_user() -> None:
    environment = {"SICSREC_HOME": "~/recommender"}
    settings = Settings.from_environment(environment)
    assert settings.home == Path.home().resolve() / "recommender"
    settings.check_home(environment)


def test_a_home_that_takes_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is a file; name a folder"):
        Settings.from_environment({"SICSREC_HOME": str(tmp_path / "file" / "home")})
    # Where nobody, not even root, may make a folder.
    settings = Settings.from_environment({"SICSREC_HOME": "/proc/sicsrec"})
    with pytest.raises(ConfigError, match="nothing can be written to SICSREC_HOME=/proc/sicsrec: "):
        settings.make_home()
    settings = Settings.from_environment({"SICSREC_HOME": str(tmp_path / "new" / "home")})
    settings.make_home()
    assert list(settings.home.iterdir()) == []


def test_everything_can_be_named() -> None:
    settings = Settings.from_environment(
        {
            "SICSREC_HOME": "/somewhere",
            "SICSREC_DEVICE": "cuda:1",
            "SICSREC_PROCESSES": "4",
            "SICSREC_DASK": "local:2",
            "SICSREC_SHARED_STORE": "sftp://someone:hidden@host/x",
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
            "PREFECT_API_URL": "http://127.0.0.1:4200/api",
        }
    )
    assert settings.home == Path("/somewhere")
    assert settings.device == "cuda:1"
    assert settings.n_processes == 4
    assert settings.dask == "local:2"
    assert settings.shared_store == "sftp://someone:hidden@host/x"
    assert "hidden" not in str(settings)
    assert settings.mlflow_uri == "http://127.0.0.1:5000"
    assert settings.prefect_api_url == "http://127.0.0.1:4200/api"


@pytest.mark.parametrize("name", ["SICSREC_PROCESSES", "SICSREC_SERVER_START_SECONDS"])
@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "²"])
def test_a_number_that_cannot_be_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a whole number"):
        Settings.from_environment({name: value})


@pytest.mark.parametrize("name", ["PREFECT_LOGGING_LEVEL", "PREFECT_SERVER_LOGGING_LEVEL"])
def test_a_level_that_prefect_does_not_know_is_named(name: str) -> None:
    for value in ("nonsense", "10"):
        with pytest.raises(ConfigError, match=rf"{name} is '{value}'.* levels DEBUG, INFO"):
            Settings.from_environment({name: value})
    Settings.from_environment({name: "debug"})


def test_an_empty_level_is_none_also_to_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("PREFECT_LOGGING_LEVEL", "PREFECT_SERVER_LOGGING_LEVEL")
    for name in names:
        monkeypatch.setenv(name, "")  # as ${LEVEL:-} of a compose file gives it
    Settings.from_environment().apply()
    assert not os.environ.keys() & set(names)


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_URI", "PREFECT_API_URL"])
@pytest.mark.parametrize("password", ["s3cret[", "[s3cret]", "s3]cret"])
def test_an_address_without_parts_is_refused_without_its_password(name: str, password: str) -> None:
    for scheme in ("postgresql", "http"):
        with pytest.raises(
            ConfigError, match=rf"{name} is '{scheme}://host/x'.*\[ as %5B"
        ) as caught:
            Settings.from_environment({name: f"{scheme}://alice:{password}@host/x"})
        told = "".join(traceback.format_exception(caught.value))
        assert "s3cret" not in told
    quoted = "postgresql://alice:%5Bs3cret%5D@host/x"
    assert Settings.from_environment({"MLFLOW_TRACKING_URI": quoted}).mlflow_uri == quoted


def test_time_for_the_start_of_a_server_is_that_of_every_server() -> None:
    name = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
    assert Settings.from_environment({}).server_start_seconds == 120
    settings = Settings.from_environment({"SICSREC_SERVER_START_SECONDS": "7"})
    assert settings.server_start_seconds == 7
    assert settings.third_party_environment()[name] == "7"


def test_variables_of_the_user_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", "/mine")
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    Settings.from_environment({"SICSREC_HOME": "/somewhere"}).apply()
    assert os.environ["PREFECT_HOME"] == "/mine"
    assert os.environ["DO_NOT_TRACK"] == "1"


@pytest.mark.parametrize("home", ["", "here", "~/there"])
def test_processes_that_are_started_have_the_same_home_in_any_folder(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SICSREC_HOME", home)
    named = Settings.from_environment()
    named.apply()
    monkeypatch.chdir(tmp_path / "elsewhere")
    inherited = Settings.from_environment()
    inherited.check_home()
    assert inherited.home == named.home


def test_a_secret_is_read_by_its_name(monkeypatch):
    monkeypatch.setenv("SICSREC_TEST_SECRET", "value")
    assert read_secret("SICSREC_TEST_SECRET") == "value"
    monkeypatch.setenv("SICSREC_TEST_SECRET", "")
    assert read_secret("SICSREC_TEST_SECRET") is None
    monkeypatch.delenv("SICSREC_TEST_SECRET")
    assert read_secret("SICSREC_TEST_SECRET") is None


def test_passwords_of_servers_are_in_no_link_and_not_shown() -> None:
    settings = Settings.from_environment(
        {
            "MLFLOW_TRACKING_URI": "http://alice:s3cret@mlflow:5000",
            "PREFECT_API_URL": "https://bob:s3cret@prefect/api",
        }
    )
    assert settings.mlflow_page == "http://mlflow:5000"
    assert settings.prefect_page == "https://prefect"
    assert settings.mlflow_uri == "http://alice:s3cret@mlflow:5000"
    assert "s3cret" not in repr(settings)
    named = Settings.from_environment({"SICSREC_MLFLOW_PAGE": "http://alice:s3cret@mlflow/a"})
    assert named.mlflow_page == "http://mlflow/a"


def test_pages_follow_the_servers_unless_they_are_named() -> None:
    servers = {
        "MLFLOW_TRACKING_URI": "http://mlflow:5000/",
        "PREFECT_API_URL": "http://prefect:4200/api",
    }
    settings = Settings.from_environment(servers)
    assert settings.mlflow_page == "http://mlflow:5000"
    assert settings.prefect_page == "http://prefect:4200"
    named = {"SICSREC_MLFLOW_PAGE": "http://a:1", "PREFECT_UI_URL": "http://b:2/"}
    settings = Settings.from_environment(servers | named)
    assert (settings.mlflow_page, settings.prefect_page) == ("http://a:1", "http://b:2")
    # A server that ends with the run has no page, and a database is no address for a browser.
    passing = {"PREFECT_API_URL": "http://127.0.0.1:9/api", TEMPORARY_SERVER: "1"}
    settings = Settings.from_environment(passing | {"MLFLOW_TRACKING_URI": "sqlite:///a.db"})
    assert (settings.mlflow_page, settings.prefect_page) == (None, None)


@pytest.mark.parametrize("home", [{}, {"SICSREC_HOME": ""}, {"SICSREC_HOME": "here"}])
def test_home_that_would_not_stay_is_refused(home: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="absolute path"):
        Settings.from_environment(home).check_home(home)


def test_home_that_stays_is_taken() -> None:
    home = {"SICSREC_HOME": "/somewhere"}
    Settings.from_environment(home).check_home(home)


def test_hosts_that_train_together():
    settings = Settings.from_environment(
        {
            "SICSREC_HOME": "/shared",
            "SICSREC_HOSTS": "3",
            "SICSREC_TRAINING_ADDRESS": "10.0.0.1:29400",
        }
    )
    assert settings.hosts == Hosts(3, "10.0.0.1", 29400, Path("/shared"))
    assert Settings.from_environment({"SICSREC_HOSTS": "1"}).hosts is None


@pytest.mark.parametrize(
    "address", ["", "10.0.0.1", ":29400", "10.0.0.1:", "host:port", "host:0", "host:65536"]
)
def test_hosts_need_a_place_to_meet(address):
    with pytest.raises(ConfigError, match=r"SICSREC_TRAINING_ADDRESS must say.*10\.0\.0\.1:29400"):
        Settings.from_environment({"SICSREC_HOSTS": "2", "SICSREC_TRAINING_ADDRESS": address})


@pytest.mark.parametrize("value", ["auto", "cpu", "mps", "cuda", "cuda:1"])
def test_devices(value: str) -> None:
    assert Settings.from_environment({"SICSREC_DEVICE": value}).device == value


@pytest.mark.parametrize("value", ["gpu", "CPU", "0", "cuda:", "cuda:x"])
def test_a_device_that_cannot_be_is_named(value: str) -> None:
    with pytest.raises(ConfigError, match="SICSREC_DEVICE is"):
        Settings.from_environment({"SICSREC_DEVICE": value})


def test_the_database_under_the_home_is_no_other_place_also_when_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = {"SICSREC_HOME": "home"}
    for own in (
        f"sqlite:///{tmp_path}/home/mlflow/mlflow.db",
        f"sqlite+pysqlite:///{tmp_path}/home/mlflow/mlflow.db?timeout=30",
        "sqlite:///home/mlflow/mlflow.db",
    ):
        found = Settings.from_environment(named | {"MLFLOW_TRACKING_URI": own})
        assert found == Settings.from_environment(named)
    for other in ("sqlite:///mlflow.db", f"file:///{tmp_path}/home/mlflow/mlflow.db"):
        found = Settings.from_environment(named | {"MLFLOW_TRACKING_URI": other})
        assert found.mlflow_uri == other


@pytest.mark.parametrize("name", ["what?", "a%41", "%c3%a9"])
def test_a_home_that_addresses_cannot_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"name another folder"):
        Settings.from_environment({"SICSREC_HOME": f"{tmp_path}/{name}/home"})
    for other in ("a # b", "100 %", "%zz", "é [x] &"):
        home = f"{tmp_path}/{other}"
        assert Settings.from_environment({"SICSREC_HOME": home}).home == Path(home)


def test_a_home_whose_name_is_not_in_utf8_is_refused_by_name(tmp_path: Path) -> None:
    home = f"{tmp_path}/plat\udce9/home"
    with pytest.raises(ConfigError, match=r"SICSREC_HOME is .*plat\\xe9/home, whose name is"):
        Settings.from_environment({"SICSREC_HOME": home})
