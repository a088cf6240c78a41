"""Pipeline runs and steps in MLflow: one parent run per pipeline run, one child per step that ran.

The only importer of MLflow. Runs are always named by their id; MLflow's fluent functions keep the
active run in module state, which threads and task runners mix up.
"""

import json
import logging
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import polars as pl
from filelock import FileLock
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from sicsrec.errors import TrackingError
from sicsrec.tracking.liveness import HOST_TAG, is_abandoned, process_tags

logger = logging.getLogger(__name__)

_BATCH = 100
"""Most parameters MLflow takes in one call; also used for metrics, whose limit is higher."""

_SIGN_OF_LIFE_SECONDS = 10.0

_MAX_VALUE_LENGTH = 500
"""Longer parameter values are cut; the manifest in the store has them whole."""


def database_uri(home: Path) -> str:
    """Return the tracking URI of the database under ``home``."""
    return f"sqlite:///{(home / 'mlflow' / 'mlflow.db').resolve()}"


class MlflowStore:
    """A place that holds experiments and runs.

    Args:
        home: root of everything the pipeline keeps; database and files lie in ``home/mlflow``.
        uri: another tracking URI, e.g. of a server; then MLflow decides where files lie.

    Raises:
        TrackingError: if ``uri`` names a server that does not answer.
    """

    def __init__(self, home: Path, uri: str | None = None) -> None:
        self.uri = uri or database_uri(home)
        self._artifacts = None if uri else (home / "mlflow" / "artifacts").resolve()
        if uri is not None and uri.startswith(("http://", "https://")):
            _check_server(uri)
        with _first_touch(home / "mlflow", guarded=uri is None):
            self.client = MlflowClient(self.uri)

    def begin(
        self,
        experiment: str,
        name: str,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> "PipelineRun":
        """Start the run of a whole pipeline.

        Runs that dead processes of this host left open are closed first.
        """
        self.close_abandoned()
        experiment_id = self._experiment(experiment)
        run = self._create(experiment_id, name, params or {}, tags or {})
        return PipelineRun(self, run.info.run_id, experiment_id)

    def count_experiments(self) -> int:
        """Return how many data sets have runs.

        Raises:
            TrackingError: if the store cannot be read.
        """
        try:
            found = self.client.search_experiments(filter_string="name != 'Default'")
        except MlflowException as err:
            raise TrackingError(f"the store {_without_password(self.uri)}: {err}") from err
        return len(found)

    def resume(self, run_id: str) -> "PipelineRun | None":
        """Open a run again that ended, e.g. with its process; None where it is gone."""
        try:
            run = self.attach(run_id)
        except MlflowException:
            return None
        _set_tags(self.client, run_id, process_tags())
        self.client.update_run(run_id, status="RUNNING")
        return run

    def attach(self, run_id: str) -> "PipelineRun":
        """Return the pipeline run of this id, e.g. in another process than the one that began."""
        return PipelineRun(self, run_id, self.client.get_run(run_id).info.experiment_id)

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = None if self._artifacts is None else (self._artifacts / name).as_uri()
        try:
            return str(self.client.create_experiment(name, artifact_location=location))
        except MlflowException:
            # Another process may have made it in between; any other failure shows here again.
            found = self.client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def close_abandoned(self) -> None:
        """Close the runs, parents and children, that dead processes of this host left open."""
        host = process_tags()[HOST_TAG]
        condition = f"attributes.status = 'RUNNING' and tags.`{HOST_TAG}` = '{host}'"
        experiments = [str(e.experiment_id) for e in self.client.search_experiments()]
        for run in self.client.search_runs(experiments, condition, max_results=1000):
            if is_abandoned(run.data.tags):
                self.client.set_tag(run.info.run_id, "error", "the process was killed")
                self.client.set_terminated(run.info.run_id, "KILLED")
                logger.info("closed the MLflow run %s of a killed process", run.info.run_name)

    def marked_runs(self, tag: str) -> set[str]:
        """Return the ids of all runs that carry a tag with the value ``true``."""
        experiments = [str(e.experiment_id) for e in self.client.search_experiments()]
        found: set[str] = set()
        token: str | None = None
        while True:
            page = self.client.search_runs(
                experiments, f"tags.`{tag}` = 'true'", max_results=1000, page_token=token
            )
            found |= {str(run.info.run_id) for run in page}
            token = page.token
            if not token:
                return found

    def mark(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Record short words on a run; one that MLflow does not have any more is passed over."""
        try:
            _set_tags(self.client, run_id, tags)
        except MlflowException as err:
            logger.warning("cannot mark the MLflow run %s: %s", run_id, err)

    def _create(
        self,
        experiment_id: str,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
    ) -> Run:
        run = self.client.create_run(
            experiment_id, tags={**tags, **process_tags(), MLFLOW_RUN_NAME: name}, run_name=name
        )
        entries = [Param(key, _short(value)) for key, value in params.items()]
        for start in range(0, len(entries), _BATCH):
            self.client.log_batch(run.info.run_id, params=entries[start : start + _BATCH])
        return run


def tags_of_child(run_id: str) -> dict[str, str]:
    """Return the tags that put a run below another one."""
    return {MLFLOW_PARENT_RUN_ID: run_id}


class PipelineRun:
    """The parent run of one pipeline run."""

    def __init__(self, store: MlflowStore, run_id: str, experiment_id: str) -> None:
        self.store = store
        self.run_id = run_id
        self.experiment_id = experiment_id

    @contextmanager
    def closing(self) -> Iterator[Self]:
        """End the run when the block ends: finished, failed with the error as a tag, or killed."""
        with _closing(self.store.client, self.run_id):
            yield self

    @contextmanager
    def step(
        self,
        name: str,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Iterator["MlflowTracker"]:
        """Open a child run for one step that really runs, and end it with the block."""
        run = self.store._create(
            self.experiment_id,
            name,
            params or {},
            {**(tags or {}), MLFLOW_PARENT_RUN_ID: self.run_id},
        )
        with _closing(self.store.client, run.info.run_id):
            yield MlflowTracker(self.store, run.info.run_id, self.experiment_id)

    def link_reused(self, step: str, made_by: str) -> None:
        """Note on the parent which earlier run made the output that a step reused."""
        self.store.client.set_tag(self.run_id, f"reused.{step}", made_by or "unknown")

    def log_report(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Record the numbers of a finished step's report on its child run."""
        _log_metrics(self.store.client, run_id, metrics, step=0)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Record the pipeline's final numbers on the parent."""
        _log_metrics(self.store.client, self.run_id, metrics, step=0)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Record short words on the parent."""
        _set_tags(self.store.client, self.run_id, tags)


class MlflowTracker:
    """Records one step in its child run; see :class:`sicsrec.tracking.Tracker`."""

    def __init__(self, store: MlflowStore, run_id: str, experiment_id: str) -> None:
        self.store = store
        self.run_id = run_id
        self.experiment_id = experiment_id
        self._tables: list[dict[str, str]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """See :meth:`sicsrec.tracking.Tracker.log_metrics`."""
        _log_metrics(self.store.client, self.run_id, metrics, step or 0)

    def log_table(self, name: str, frame: pl.DataFrame) -> None:
        """See :meth:`sicsrec.tracking.Tracker.log_table`."""
        # The layout that MLflow's page shows as a table; its own function goes through pandas.
        path = f"tables/{name}.json"
        content = {"columns": frame.columns, "data": [list(row) for row in frame.rows()]}
        self.store.client.log_text(self.run_id, json.dumps(content, default=str), path)
        self._tables.append({"path": path, "type": "table"})
        self.store.client.set_tag(self.run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps(self._tables))

    def log_figure(self, name: str, figure: Figure) -> None:
        """See :meth:`sicsrec.tracking.Tracker.log_figure`."""
        self.store.client.log_figure(self.run_id, figure, f"figures/{name}.png")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """See :meth:`sicsrec.tracking.Tracker.set_tags`."""
        _set_tags(self.store.client, self.run_id, tags)

    def identity(self) -> dict[str, str]:
        """See :meth:`sicsrec.tracking.Tracker.identity`."""
        return {"mlflow_run_id": self.run_id, "mlflow_experiment_id": self.experiment_id}


def _check_server(uri: str) -> None:
    """Ask for a sign of life first: MLflow's own client tries for minutes before it gives up."""
    url = f"{uri.rstrip('/')}/health"
    try:
        with urllib.request.urlopen(url, timeout=_SIGN_OF_LIFE_SECONDS):  # noqa: S310 - http(s)
            return
    except urllib.error.HTTPError:
        # Something answers; what it may refuse is said by the calls that follow.
        return
    except (OSError, ValueError) as err:
        why = getattr(err, "reason", err)
        raise TrackingError(
            f"no MLflow server answers under MLFLOW_TRACKING_URI={_without_password(uri)} ({why}). "
            "Start it, or unset the variable to keep the records below SICSREC_HOME"
        ) from err


def _without_password(uri: str) -> str:
    parts = urllib.parse.urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


@contextmanager
def _first_touch(folder: Path, *, guarded: bool) -> Iterator[None]:
    """Let one process at a time create or migrate the database, and keep the logging as it was.

    Two processes that migrate a new SQLite file at once break each other, and the migration tool
    replaces the handlers of the root logger.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        if guarded:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".migrate.lock"):
                yield
        else:
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def _closing(client: MlflowClient, run_id: str) -> Iterator[None]:
    try:
        yield
    except BaseException as err:
        failed = isinstance(err, Exception)
        try:
            if failed:
                _set_tags(client, run_id, {"error": f"{type(err).__name__}: {err}"})
            client.set_terminated(run_id, "FAILED" if failed else "KILLED")
        except (MlflowException, OSError) as second:
            # On a full disk or without a server; what was wrong first is what people must see. The
            # next run of this host closes the record.
            logger.warning("cannot note in MLflow how the run %s ended: %s", run_id, second)
        raise
    client.set_terminated(run_id, "FINISHED")


def _log_metrics(
    client: MlflowClient, run_id: str, metrics: Mapping[str, float], step: int
) -> None:
    now = int(time.time() * 1000)
    entries = [Metric(name, float(value), now, step) for name, value in metrics.items()]
    for start in range(0, len(entries), _BATCH):
        client.log_batch(run_id, metrics=entries[start : start + _BATCH])


def _set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    client.log_batch(run_id, tags=[RunTag(key, _short(value)) for key, value in tags.items()])


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _MAX_VALUE_LENGTH else text[: _MAX_VALUE_LENGTH - 1] + "…"
