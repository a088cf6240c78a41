"""What Prefect's page is told, under a real server."""

import io
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import Artifact
from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler
from prefect.runtime import flow_run

from sicsrec.errors import ConfigError, DataError
from tasks import page
from tasks.outcome import RunOutcome
from tasks.page import (
    BothProgress,
    PageProgress,
    artifact_key,
    failed_run,
    mlflow_link,
    prefect_links,
    publish_run,
)
from tasks.tracebacks import (
    keep_passwords_out_of_prefect,
    keep_tracebacks_out_of_prefect,
    write_traceback,
)

TRACKING = {"mlflow_experiment_id": "3", "mlflow_run_id": "abc"}
MLFLOW_PAGE = "http://127.0.0.1:5000/#/experiments/3/runs/abc?workflowType=machine_learning"


class Counting:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.done = 0

    def stage(self, description: str, total: int | None) -> Any:
        counting = self

        class Stage:
            def __enter__(self) -> Any:
                return counting.advance

            def __exit__(self, *_: object) -> None:
                return None

        return Stage()

    def advance(self, n: int = 1, note: str = "") -> None:
        self.done += n


def run_with(progress: PageProgress, total: int | None, n_threads: int = 0) -> list[Artifact]:
    """Advance a stage in a task and return the artifacts that this left."""
    seen: list[Any] = []
    counting = Counting()

    @task
    def work() -> None:
        with BothProgress(counting, progress).stage("training", total) as advance:
            for _ in range(4):
                if n_threads:
                    thread = threading.Thread(target=advance, args=(5, "loss 0.5"))
                    thread.start()
                    thread.join()
                else:
                    advance(5, "loss 0.5")

    @flow
    def around() -> None:
        seen.append(flow_run.id)
        work()

    around()
    assert counting.done == 20
    with get_client(sync_client=True) as client:
        mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=seen))
        return client.read_artifacts(artifact_filter=mine)


def left_by(say: Callable[[], object]) -> dict[str, Artifact]:
    """Call what publishes, in a flow, and return the artifacts that it left by their keys."""
    seen: list[Any] = []

    @flow
    def around() -> None:
        seen.append(flow_run.id)
        say()

    around()
    with get_client(sync_client=True) as client:
        mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=seen))
        return {str(found.key): found for found in client.read_artifacts(artifact_filter=mine)}


@pytest.mark.usefixtures("prefect_server")
def test_summary_of_a_run_says_where_its_model_page_and_record_are() -> None:
    outcome = RunOutcome((), "3", "abc", "sicsrec-demo version 1, champion", "/home/report.html")
    found = left_by(lambda: publish_run("demo", outcome))["demo-run"]
    assert found.description == "demo: 0 steps"
    text = str(found.data)
    assert "model: sicsrec-demo version 1, champion" in text
    assert "report: `/home/report.html`" in text
    assert f"MLflow: [abc]({MLFLOW_PAGE}), while `sicsrec ui` runs" in text


@pytest.mark.usefixtures("prefect_server")
def test_long_stage_is_one_artifact_of_the_task() -> None:
    (found,) = run_with(PageProgress("demo-training", first_seconds=0.0), 20, n_threads=1)
    assert (found.key, found.type, found.data) == ("demo-training", "progress", 100.0)
    assert found.description is not None
    assert found.description.startswith("training: 20 in ")
    assert found.task_run_id is not None


@pytest.mark.usefixtures("prefect_server")
def test_stage_that_ends_early_says_how_far_it_came() -> None:
    (found,) = run_with(PageProgress("demo-training", first_seconds=0.0), 50)
    assert found.data == 100.0
    assert str(found.description).startswith("training: 20 in ")


@pytest.mark.usefixtures("prefect_server")
def test_what_went_wrong_is_whole_on_the_page() -> None:
    known = ", ".join(f"value_{number}" for number in range(40))
    error = ConfigError(f"configuration 'demo' cannot be used:\n  alfa: known here: {known}")
    found = left_by(lambda: failed_run(error))["what-went-wrong"]
    assert found.description == " ".join(str(error).split())
    code = str(found.data).split("```")[1]
    assert " ".join(code.split()) == found.description
    assert max(map(len, code.splitlines())) <= 80


@pytest.mark.usefixtures("prefect_server")
def test_short_stages_and_those_of_unknown_length_are_not_shown() -> None:
    assert run_with(PageProgress("demo-training", first_seconds=60.0), 20) == []
    assert run_with(PageProgress("demo-training", first_seconds=0.0), None) == []


@pytest.mark.usefixtures("prefect_server")
def test_page_that_cannot_be_told_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: SyncPrefectClient, artifact: object) -> None:
        raise httpx.ConnectError("http://me:s3cret@host is gone")

    monkeypatch.setattr(SyncPrefectClient, "create_artifact", refuse)
    with caplog.at_level(logging.WARNING, logger="sicsrec.tasks"):
        assert run_with(PageProgress("demo-training", first_seconds=0.0), 20) == []
    assert caplog.text.count("http://host is gone") == 1
    assert "s3cret" not in caplog.text


def test_summary_that_the_server_does_not_take_fails_no_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("Failed to reach API at http://me:s3cret@127.0.0.1:9/api")

    monkeypatch.setattr(page, "create_markdown_artifact", refuse)
    with caplog.at_level(logging.WARNING, logger="sicsrec.tasks"):
        publish_run("demo", RunOutcome((), "3", "abc"))
        state = failed_run(DataError("there is no folder"))
    assert caplog.text.count("Failed to reach API at http://127.0.0.1:9/api") == 2
    assert "s3cret" not in caplog.text
    assert state.is_failed()
    assert state.message == "there is no folder"


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("error", [DataError("no such folder"), ValueError("a fault of ours")])
def test_traceback_of_an_error_that_people_can_mend_is_kept_out_of_the_log(
    error: Exception, tmp_path: Path
) -> None:
    keep_tracebacks_out_of_prefect()
    lines: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record)

    @task
    def fail() -> None:
        raise error

    @flow
    def around() -> Path | None:
        with pytest.raises(type(error)) as raised:
            fail()
        return write_traceback(raised.value, tmp_path)

    keep = Keep(logging.ERROR)
    logging.getLogger("prefect.task_runs").addHandler(keep)
    path = around()
    logging.getLogger("prefect.task_runs").removeHandler(keep)
    line = lines[0]  # the next one is of the state
    assert str(error) in line.getMessage()
    assert bool(line.exc_info) is isinstance(error, ValueError)
    assert path is not None
    assert "in fail" in path.read_text()


def test_a_traceback_is_written_without_passwords(tmp_path: Path) -> None:
    error = RuntimeError("nothing came back")
    error.__cause__ = OSError("413 for url http://alice:s3cret@host/api")
    path = write_traceback(error, tmp_path)
    assert path is not None
    assert "413 for url http://host/api" in path.read_text()


@pytest.mark.usefixtures("prefect_server")
def test_neither_prefects_log_nor_what_it_prints_holds_the_password_of_a_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep_passwords_out_of_prefect()
    printed = io.StringIO()
    for handler in logging.getLogger().handlers:
        if isinstance(handler, PrefectConsoleHandler):
            monkeypatch.setattr(handler.console, "file", printed)

    @task
    def fail() -> None:
        raise ValueError("a bug") from ConnectionError("no answer from http://me:s3cret@host/api")

    @flow
    def around() -> Any:
        with pytest.raises(ValueError, match="a bug"):
            fail()
        return flow_run.id

    run_id = around()
    APILogHandler().flush()
    mine = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    with get_client(sync_client=True) as client:
        lines = "\n".join(line.message for line in client.read_logs(mine))
    for text in (lines, printed.getvalue()):
        assert "no answer from http://host/api" in text
        assert "s3cret" not in text


def test_keys_are_as_prefect_takes_them() -> None:
    assert artifact_key("Meine Videos_2", "encode_items") == "meine-videos-2-encode-items"


def test_links_where_addresses_are_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert mlflow_link(TRACKING) is None
    assert prefect_links() == {}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000/")
    assert mlflow_link(TRACKING) == MLFLOW_PAGE
    assert mlflow_link({}) is None
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", "some-run")
    assert prefect_links()["prefect.flow_run_url"] == (
        "http://127.0.0.1:4200/runs/flow-run/some-run"
    )
