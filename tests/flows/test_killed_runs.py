"""What Prefect and MLflow say of runs that were killed: real servers, real kills."""

import json
import os
import signal
import time
from pathlib import Path

import psutil
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
from prefect.states import Running

from flows.pipeline import sicsrec
from sicsrec.liveness import HOST_TAG, process_tags
from sicsrec.runs import RunRegister
from sicsrec.tracking.mlflow_store import database_uri
from tests.flows.dying import Death
from tests.flows.runs import OVERRIDES, Launcher, Run, artifacts_of, new_home

EARLY = ("run", *OVERRIDES, "--until", "split")
IN_SPLIT = r"os.rename .*split/\.\w+\.partial "


def wait_until_stopped(run: Run) -> None:
    deadline = time.monotonic() + 120
    while psutil.Process(run.pid).status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline, run.said()
        time.sleep(0.05)


def mlflow_states(home: Path) -> dict[str, list[str]]:
    """Return the states of all runs by the Prefect run they, or their parents, belong to."""
    client = MlflowClient(database_uri(home))
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    parents = {run.info.run_id: run.data.tags.get("prefect.flow_run_id", "") for run in runs}
    states: dict[str, list[str]] = {}
    for run in runs:
        parent = run.data.tags.get("mlflow.parentRunId", run.info.run_id)
        states.setdefault(parents[parent], []).append(run.info.status)
    return {flow_run: sorted(found) for flow_run, found in states.items()}


def flow_run_of(home: Path, known: set[str]) -> str:
    """Return the Prefect run that MLflow knows and that is not among ``known``."""
    (new,) = set(mlflow_states(home)) - known
    return new


def state_of(flow_run_id: str) -> str:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(flow_run_id).state_name or ""  # type: ignore[arg-type]


def test_killed_runs_are_closed_and_living_ones_and_other_hosts_are_not(
    launcher: Launcher, tmp_path: Path, empty_database: Path
) -> None:
    url = str(PREFECT_API_URL.value())
    home = new_home(tmp_path / "home", empty_database)
    with get_client(sync_client=True) as client:
        elsewhere = client.create_flow_run(sicsrec, state=Running())
        client.update_flow_run_labels(elsewhere.id, process_tags() | {HOST_TAG: "elsewhere"})

    alive = launcher.start(home, *EARLY, death=Death(str(home), IN_SPLIT, stops=True))
    wait_until_stopped(alive)
    of_alive = flow_run_of(home, set())
    in_ingest = Death(str(home), r"open .*ingest/.*/report\.json")
    killed = launcher.start(home, *EARLY, "--refresh", "ingest", death=in_ingest)
    assert killed.wait() == -signal.SIGKILL, killed.said()
    of_killed = flow_run_of(home, {of_alive})
    assert state_of(of_killed) == "Running"
    assert mlflow_states(home)[of_killed] == ["RUNNING", "RUNNING"]

    status = launcher.start(home, "status", *OVERRIDES, PREFECT_API_URL=url)
    assert status.wait() == 0, status.said()
    assert state_of(of_killed) == "Crashed"
    assert mlflow_states(home)[of_killed] == ["KILLED", "KILLED"]
    assert state_of(of_alive) == "Running"
    assert mlflow_states(home)[of_alive] == ["FINISHED", "RUNNING", "RUNNING"]
    assert RunRegister(home / "artifacts", "demo").killed() == []

    stored = artifacts_of(home)
    gc = launcher.start(home, "gc", "--delete")
    assert gc.wait() == 0, gc.said()
    assert "0 things removed" in gc.said()
    said = " ".join(gc.said().split())
    assert "nothing of demo is removed: a run that uses this dataset is in progress" in said
    assert artifacts_of(home) == stored

    os.kill(alive.pid, signal.SIGKILL)
    assert alive.wait() == -signal.SIGKILL
    assert len(RunRegister(home / "artifacts", "demo").killed()) == 1
    again = launcher.start(home, *EARLY)
    assert again.wait() == 0, again.said()
    assert state_of(of_alive) == "Crashed"
    assert mlflow_states(home)[of_alive] == ["FINISHED", "KILLED", "KILLED"]
    assert state_of(str(elsewhere.id)) == "Running"
    entries = RunRegister(home / "artifacts", "demo").entries()
    *others, good = sorted(entries, key=lambda entry: entry.ended or "")
    assert [entry.ended for entry in others] == [None, None]
    assert all(entry.failed is not None for entry in others)
    assert good.preset == "demo"
    assert good.last_step == "split"
    assert list(good.steps) == ["ingest", "split"]


def write_report(home: Path, ingest: str) -> None:
    """Write what stands for a page on one step, in a folder of the step's key."""
    folder = home / "reports" / "demo" / ingest
    folder.mkdir(parents=True)
    (folder / "about.json").write_text(json.dumps({"report": 2, "steps": {"ingest": ingest}}))
    (folder / "report.html").write_text("a page")


def test_gc_shows_first_and_mlflow_says_what_went(
    launcher: Launcher, tmp_path: Path, empty_database: Path
) -> None:
    home = new_home(tmp_path / "home", empty_database)
    for arguments in (("--set", "ingest.reader.n_users=70"), ()):
        run = launcher.start(home, "run", *OVERRIDES, *arguments, "--until", "ingest")
        assert run.wait() == 0, run.said()
    old, new = artifacts_of(home)
    for place in (old, new):
        write_report(home, ingest=place.split()[-1])
    dry = launcher.start(home, "gc", output=tmp_path / "dry.txt")
    assert dry.wait() == 0, dry.said()
    assert "1 thing can be removed" in dry.said()
    assert "or go with these: 1, " in " ".join(dry.said().split())
    assert "newest run of demo" in " ".join(dry.said().split())
    assert max(len(line) for line in dry.said().splitlines()) <= 80
    assert set(artifacts_of(home)) == {old, new}

    client = MlflowClient(database_uri(home))
    gone, kept = client.search_runs(["1"], "tags.step = 'ingest'", order_by=["start_time"])
    client.set_tag(gone.info.run_id, "sicsrec.keep", "true")
    marked = launcher.start(home, "gc", "--delete", output=tmp_path / "marked.txt")
    assert marked.wait() == 0
    assert set(artifacts_of(home)) == {old, new}
    client.delete_tag(gone.info.run_id, "sicsrec.keep")
    real = launcher.start(home, "gc", "--delete", output=tmp_path / "real.txt")
    assert real.wait() == 0
    assert "1 thing and 1 of their reports removed" in " ".join(real.said().split())
    assert set(artifacts_of(home)) == {new}
    assert [path.name for path in (home / "reports" / "demo").iterdir()] == [new.split()[-1]]
    assert "removed" in client.get_run(gone.info.run_id).data.tags["artifact"]
    assert "artifact" not in client.get_run(kept.info.run_id).data.tags


def test_runs_at_once_make_each_step_once_and_a_killed_one_blocks_nobody(
    launcher: Launcher, tmp_path: Path, empty_database: Path
) -> None:
    home = new_home(tmp_path / "home", empty_database)
    holder = launcher.start(home, *EARLY, death=Death(str(home), IN_SPLIT, stops=True))
    wait_until_stopped(holder)
    both = [
        launcher.start(home, *EARLY, "--refresh", "ingest", output=tmp_path / "first.txt"),
        launcher.start(home, *EARLY, output=tmp_path / "second.txt"),
    ]
    os.kill(holder.pid, signal.SIGKILL)
    assert holder.wait() == -signal.SIGKILL
    assert [run.wait() for run in both] == [0, 0], [run.said() for run in both]
    said = [line.split(",")[0] for run in both for line in run.said().splitlines()]
    steps = sorted(words for words in said if words.startswith(("ingest:", "split:")))
    assert steps == ["ingest: cached", "ingest: ran", "split: cached", "split: ran"]
