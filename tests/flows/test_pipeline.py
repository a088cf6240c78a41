"""The flow under a real temporary Prefect server, recorded in a real MLflow database."""

import os
import re
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import LogSort, TaskRunSort
from prefect.flow_engine import run_flow
from prefect.logging.handlers import APILogHandler

from flows.pipeline import sicsrec
from flows.reports import newest_report
from sicsrec.artifacts import ArtifactStore
from sicsrec.errors import ConfigError, DataError
from sicsrec.steps import STEP_NAMES
from sicsrec.tracking.mlflow_store import database_uri
from tasks.outcome import RunOutcome
from tasks.settings import Settings
from tests.flows.conftest import SMALL

pytestmark = pytest.mark.usefixtures("prefect_server")


@dataclass
class Finished:
    """A run of the flow and what Prefect knows of it."""

    state: State[RunOutcome]

    @property
    def flow_run_id(self) -> uuid.UUID:
        found = self.state.state_details.flow_run_id
        assert found is not None
        return found

    @property
    def outcome(self) -> RunOutcome:
        return self.state.result()  # type: ignore[return-value]

    def reused(self) -> dict[str, bool]:
        return {step.name: step.was_reused for step in self.outcome.steps}

    def task_states(self) -> dict[str, str]:
        """Return the states of the tasks, once the server has worked off the events."""
        mine = FlowRunFilter(id=FlowRunFilterId(any_=[self.flow_run_id]))
        for _ in range(100):
            with get_client(sync_client=True) as client:
                runs = client.read_task_runs(
                    flow_run_filter=mine, sort=TaskRunSort.END_TIME_DESC, limit=50
                )
            if runs and all(run.state is not None and run.state.is_final() for run in runs):
                break
            time.sleep(0.2)
        return {run.name.split()[0]: run.state_name or "" for run in runs}

    def log_lines(self) -> list[str]:
        with get_client(sync_client=True) as client:
            logs = client.read_logs(
                LogFilter(flow_run_id=LogFilterFlowRunId(any_=[self.flow_run_id])),
                sort=LogSort.TIMESTAMP_ASC,
                limit=200,
                offset=0,
            )
        return [log.message for log in logs]


def run(**parameters: Any) -> Finished:
    overrides = [*SMALL, *parameters.pop("overrides", [])]
    return Finished(sicsrec(overrides=overrides, **parameters, return_state=True))


def mlflow_runs(home: Path) -> tuple[Run, dict[str, Run]]:
    """Return the newest parent run and its children by name."""
    client = MlflowClient(database_uri(home))
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])
    parent = next(entry for entry in runs if "mlflow.parentRunId" not in entry.data.tags)
    children = {
        str(entry.info.run_name): entry
        for entry in runs
        if entry.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    }
    return parent, children


def test_nine_steps_run_once_and_are_reused(home: Path) -> None:
    first = run()
    assert first.reused() == dict.fromkeys(STEP_NAMES, False)
    assert first.task_states() == dict.fromkeys((*STEP_NAMES, "report"), "Completed")
    parent, children = mlflow_runs(home)
    assert set(children) == set(STEP_NAMES)
    assert {entry.info.status for entry in (parent, *children.values())} == {"FINISHED"}
    assert parent.data.params["train_sicsrec.alpha"] == "0.2"
    assert children["train_sicsrec"].data.params["alpha"] == "0.2"
    assert parent.data.tags["prefect.flow_run_id"] == str(first.flow_run_id)
    assert parent.data.tags["judge"] == "similarity"
    assert 0.0 <= parent.data.metrics["test/ndcg_at_10"] <= 1.0
    assert any(name.startswith("report/") for name in children["ingest"].data.metrics)
    aligned = children["align_encoders"].data.metrics
    assert "after/modality_gap" in aligned
    assert "report/after.modality_gap" not in aligned  # not twice

    # What comes after the registration is recorded on the same run.
    assert first.outcome.registered.startswith("sicsrec-demo version 1, champion")
    assert parent.data.tags["registered"] == first.outcome.registered
    assert "MLFLOW_TRACKING_URI" not in os.environ

    assert first.outcome.report is not None
    page = Path(first.outcome.report)
    assert newest_report(Settings.from_environment(), "demo") == page
    assert "| SICSRec |" in parent.data.tags["mlflow.note.content"]
    assert {entry.dataset.name for entry in parent.inputs.dataset_inputs} == {
        "ingest/interactions", "split/train", "split/valid", "split/test",
    }  # fmt: skip
    assert "system/cpu_utilization_percentage" in children["train_sicsrec"].data.metrics
    assert children["train_sicsrec"].data.metrics["valid/ndcg_at_10"] >= 0.0
    client = MlflowClient(database_uri(home))
    experiment = client.get_experiment(parent.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    logged = {entry.path for entry in client.list_artifacts(parent.info.run_id)}
    assert logged == {"explorer.html", "figures", "report.html", "tables"}

    second = run()
    assert second.outcome.report == first.outcome.report
    assert second.reused() == dict.fromkeys(STEP_NAMES, True)
    assert second.task_states() == {**dict.fromkeys(STEP_NAMES, "Cached"), "report": "Completed"}
    again, none = mlflow_runs(home)
    assert none == {}
    assert again.data.tags["reused.export"] == children["export"].info.run_id
    assert again.data.metrics["test/ndcg_at_10"] == parent.data.metrics["test/ndcg_at_10"]

    third = run(refresh=["encode_items"])
    assert [name for name, reused in third.reused().items() if not reused] == ["encode_items"]
    assert set(mlflow_runs(home)[1]) == {"encode_items"}

    changed = run(overrides=["export.top_k=3"])
    assert [name for name, reused in changed.reused().items() if not reused] == ["export"]

    shutil.rmtree(home / "reports")
    (home / "reports").write_text("in the way")
    without = run()
    assert without.state.is_completed()
    assert without.outcome.report is None
    assert without.task_states()["report"] == "Failed"


def test_run_ends_at_until_and_logs_reach_prefect_once(home: Path) -> None:
    finished = run(until="split")
    assert list(finished.reused()) == ["ingest", "split"]
    APILogHandler().flush()
    lines = [line for line in finished.log_lines() if line.startswith("committed ")]
    assert [line.split()[1] for line in lines] == ["ingest", "split"]
    store = ArtifactStore(home / "artifacts")
    assert len(store.manifests("demo", "split")) == 1
    assert store.manifests("demo", "sample_pairs") == []


def test_broken_data_fails_the_step_in_prefect_and_mlflow(home: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    failed = Finished(
        sicsrec(preset="bili_food", data=str(tmp_path / "raw"), until="split", return_state=True)
    )
    assert failed.state.is_failed()
    with pytest.raises(DataError, match="raw"):
        failed.state.result()
    assert failed.task_states() == {"ingest": "Failed"}
    client = MlflowClient(database_uri(home))
    experiment = client.get_experiment_by_name("bili_food")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {entry.info.status for entry in runs} == {"FAILED"}
    assert len(runs) == 2
    for entry in runs:
        assert "raw" in entry.data.tags["error"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"preset": "none"}, "unknown preset"),
        ({"overrides": ["train_sicsrec.alfa=1"]}, "did you mean"),
        ({"until": "split", "refresh": ["export"]}, "does not reach"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(
    home: Path, parameters: dict[str, Any], message: str
) -> None:
    state = sicsrec(**parameters, return_state=True)
    with pytest.raises(ConfigError, match=message):
        state.result()
    assert not (home / "artifacts").exists()


def test_a_deployments_run_is_told_of_its_parameters(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a-deployment")
    state = sicsrec(until="split", refresh=["export"], return_state=True)
    with pytest.raises(ConfigError, match=r"^refresh export: this run does not reach"):
        state.result()


def test_a_deployments_run_in_a_wrong_environment_says_so_on_its_page(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a-deployment")
    monkeypatch.setenv("SICSREC_DEVICE", "gpu")
    state = sicsrec(return_state=True)
    assert state.is_failed()
    assert str(state.message).startswith("SICSREC_DEVICE is 'gpu'")
    with get_client(sync_client=True) as client:
        run = ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id])
        (told,) = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=run))
    assert told.key == "what-went-wrong"
    assert "SICSREC_DEVICE is 'gpu'" in str(told.data)


def test_unknown_step_names_the_steps() -> None:
    state = sicsrec(until="splt", return_state=True)  # type: ignore[arg-type]
    assert state.is_failed()
    with pytest.raises(Exception, match="'ingest', 'split'"):
        state.result()


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("brave-otter", "brave-otter"),
        ("for the board", "for the board"),
        # Of a run that is tried again.
        ("demo 2026-11-27 18:59 brave-otter", "brave-otter"),
    ],
)
def test_a_run_keeps_the_name_it_was_given(name: str, kept: str) -> None:
    parameters = {"until": "split", "overrides": ["seed=many"]}
    with get_client(sync_client=True) as client:
        asked = client.create_flow_run(sicsrec, parameters=parameters, name=name)
        run_flow(sicsrec, asked, parameters, return_type="state")
        found = client.read_flow_run(asked.id)
    assert found.state_name == "Failed"
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    assert re.fullmatch(rf"demo, until split {stamp} {kept}", found.name)
