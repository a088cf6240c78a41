"""One run from the command line: log file, temporary server, the flow, and what is said of it."""

import importlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from flows.configuration import ResolvedConfig
from flows.server import (
    PREFECT_URL,
    crash_killed_flow_runs,
    is_answering,
    mlflow_run_page,
    prefect_server,
    stop_on_sigterm,
)
from flows.terminal import RunView, logging_to, results_tables
from sicsrec.addresses import without_password
from sicsrec.artifacts import ArtifactStore
from sicsrec.disk_space import naming_full_disk
from sicsrec.errors import SicsrecError
from sicsrec.runs import killed_processes
from tasks.outcome import Observer, RunOutcome, observed_by
from tasks.settings import Settings


@dataclass(frozen=True)
class RunRequest:
    """What the user asked for; the parameters of the flow."""

    preset: str
    data: str | None = None
    overrides: list[str] = field(default_factory=list)
    refresh: list[str] = field(default_factory=list)
    until: str | None = None
    seed: int | None = None
    tags: dict[str, str] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FinishedRun:
    """A run that ended without an error."""

    outcome: RunOutcome
    flow_run_id: str


def run_pipeline(
    request: RunRequest, steps: Sequence[str], settings: Settings, console: Console, log: Path
) -> FinishedRun:
    """Run the flow under a temporary server, or under the one that the settings name.

    Raises:
        SicsrecError: what a step raised, or when the temporary server does not start.
    """
    with (
        naming_full_disk(settings.home, "records of the run"),
        RunView(console, steps) as view,
        prefect_session(settings, console, log),
    ):
        try:
            state = run_flow(request, view)
            outcome: RunOutcome = state.result()
        except BaseException:
            view.mark_failed()
            raise
        return FinishedRun(outcome, str(state.state_details.flow_run_id))


@contextmanager
def prefect_session(settings: Settings, console: Console, log: Path) -> Iterator[None]:
    """Log to a file and have a Prefect server, a temporary one unless the settings name one.

    Raises:
        SicsrecError: if the temporary server does not start, or the server refuses or goes away.
    """
    # Otherwise Prefect prints on the terminal that lines of its log could not be sent, many times.
    logging.raiseExceptions = False
    # So that a run that is told to end says goodbye to MLflow and Prefect like one that failed.
    stop_on_sigterm()
    server_log = settings.log_folder / "prefect-server.log"
    with (
        logging_to(log, console),
        prefect_server(settings, server_log) as server,
    ):
        api_url = settings.prefect_api_url if server is None else server.api_url
        was_there = server is not None or (api_url is not None and is_answering(api_url))
        try:
            # Imported while the server starts: each of the two takes seconds.
            importlib.import_module("flows.pipeline")
            from tasks.record import warm_up

            warm_up()
            if server is not None:
                server.wait()
            if api_url is not None:
                crash_killed_flow_runs(api_url, killed_processes(settings.store_root))
            yield
        except BaseException as err:
            is_ours = isinstance(err, SicsrecError) or not isinstance(err, Exception)
            if is_ours or api_url is None or is_answering(api_url):
                raise
            if not was_there:
                raise SicsrecError(
                    f"no Prefect server answers under PREFECT_API_URL={without_password(api_url)}"
                    ". Start it, or unset the variable and one is started for each run"
                ) from err
            raise SicsrecError(
                f"the Prefect server {without_password(api_url)} stopped answering during the "
                "run. What was finished is kept; see that there is a server, then run the same "
                "command again"
                + ("" if server is None else f". What the server printed is in {server_log}")
            ) from err
        finally:
            if api_url is not None and is_answering(api_url):
                _send_last_log_lines()


def run_flow(request: RunRequest, view: Observer) -> Any:
    """Run the flow inside a session and return its final state, failed or not."""
    from flows.pipeline import sicsrec

    with observed_by(view):
        return sicsrec(
            preset=request.preset,
            data=request.data,
            overrides=request.overrides,
            refresh=request.refresh,
            until=request.until,
            seed=request.seed,
            tags=request.tags,
            steps=request.steps,
            return_state=True,
        )


def _send_last_log_lines() -> None:
    """Let Prefect send what it holds back, while the server is there to take it.

    At the end of the process it would try for more than a minute.
    """
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()


def print_results(
    finished: FinishedRun, resolved: ResolvedConfig, settings: Settings, console: Console
) -> None:
    """Print the results table, if the run got so far, and where to look next."""
    store = ArtifactStore(settings.store_root)
    for step in finished.outcome.steps:
        if step.name != "evaluate":
            continue
        report = store.report(resolved.config.dataset, step.name, step.key)
        for table in results_tables(report["content"].get("results", [])):
            console.print(table)
    for label, place, how in _places(finished, settings):
        console.print(Text(f"{label:<16}", style="bold"), Text(place), sep="", soft_wrap=True)
        if how:
            console.print(Text(f"{'':<16}{how}", style="dim"), soft_wrap=True)


def _places(finished: FinishedRun, settings: Settings) -> list[tuple[str, str, str]]:
    outcome = finished.outcome
    places = []
    for step in outcome.steps:
        if step.name == "export":
            folder = Path(step.folder) / "data" / "recommendations"
            places.append(("Recommendations", _near(folder / "recommendations.parquet"), ""))
            places.append(
                ("Model", _near(Path(step.folder) / "data" / "model"), outcome.registered)
            )
    if not places and outcome.steps:
        places.append(("Output", _near(Path(outcome.steps[-1].folder)), ""))
    if outcome.report is not None:
        # Not at the top: it imports Prefect, which waits until the server is being started.
        from tasks.report import explorer_beside

        explorer = explorer_beside(Path(outcome.report))
        beside = f"{explorer.name} beside it: point at items" if explorer else ""
        places.append(("Report", _near(Path(outcome.report)), beside))
    first, *then = mlflow_run_page(settings, outcome.mlflow_experiment_id, outcome.mlflow_run_id)
    places.append(("MLflow", first, "".join(then)))
    page = f"runs/flow-run/{finished.flow_run_id}"
    if settings.prefect_page is None:
        places.append(("Prefect", "sicsrec ui --prefect", f"{PREFECT_URL}/{page}"))
    else:
        places.append(("Prefect", f"{settings.prefect_page}/{page}", ""))
    return places


def _near(path: Path) -> str:
    """Return a path as seen from the working folder when it lies below it."""
    here = Path.cwd()
    return os.fspath(path.relative_to(here) if path.is_relative_to(here) else path)
