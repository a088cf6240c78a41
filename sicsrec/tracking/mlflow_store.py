"""Pipeline runs and steps in MLflow: one parent run per pipeline run, one child per step that ran.

The only importer of MLflow. Runs are always named by their id; MLflow's fluent functions keep the
active run in module state, which threads and task runners mix up. After the parent has begun no
store that is away stops anything: see :mod:`sicsrec.tracking.outbox`.
"""

import json
import logging
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import polars as pl
from filelock import FileLock
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_LOGGED_ARTIFACTS,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NAME,
    MLFLOW_RUN_NOTE,
)

from sicsrec.addresses import ask, without_password, without_passwords
from sicsrec.disk_space import naming_full_disk
from sicsrec.errors import TrackingError
from sicsrec.figures import draw
from sicsrec.liveness import HOST_TAG, is_abandoned, process_tags
from sicsrec.tracking.moved_home import follow_home
from sicsrec.tracking.outbox import Outbox, first_line
from sicsrec.tracking.sampling import sampled

logger = logging.getLogger(__name__)

_BATCH = 100
"""Most parameters MLflow takes in one call; also used for metrics, whose limit is higher."""

_SIGN_OF_LIFE_SECONDS = 10.0

_MAX_VALUE_LENGTH = 500
"""Longer parameter values are cut; the manifest in the store has them whole."""

_MAX_NOTE_LENGTH = 7900
_MAX_DIGEST_LENGTH = 36

_EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Lets MLflow open an experiment in the view for training, not in the one for language models."""

_SAMPLE_SECONDS = 5.0
_PATIENCE_SECONDS = 60.0

_ERRORS = (MlflowException, OSError)
"""What MLflow raises when a server is away or refuses something; the errors of its HTTP client are
OSErrors."""


def database_uri(home: Path) -> str:
    """Return the tracking URI of the database under ``home``."""
    return f"sqlite:///{(home / 'mlflow' / 'mlflow.db').resolve()}"


@dataclass(frozen=True)
class UsedData:
    """Data that a run used."""

    name: str
    digest: str
    """Ours, of the content; MLflow keeps the first 36 digits."""
    context: str
    """What it was used for: ``training``, ``validation``, ``test``, ..."""
    source: Mapping[str, str]
    """Where it comes from, in words a person searches by."""


@dataclass
class _RunHandle:
    """A run that exists in MLflow as soon as its record was sent."""

    name: str
    run_id: str | None = None


class MlflowStore:
    """A place that holds experiments and runs.

    Args:
        home: root of everything the pipeline keeps; database and files lie in ``home/mlflow``.
        uri: another tracking URI, e.g. of a server; then MLflow decides where files lie.
        patience_seconds: how long the end of a run waits for a server that is away.
        follows_home: let the records of a home that was moved or copied name the files there.

    Raises:
        TrackingError: if ``uri`` names a server that does not answer.
    """

    def __init__(
        self,
        home: Path,
        uri: str | None = None,
        patience_seconds: float = _PATIENCE_SECONDS,
        *,
        follows_home: bool = True,
    ) -> None:
        self.uri = uri or database_uri(home)
        self.patience_seconds = patience_seconds
        self._artifacts = None if uri else (home / "mlflow" / "artifacts").resolve()
        self.check()
        with _first_touch(home / "mlflow", guarded=uri is None):
            self.client = self._connect()
            if self._artifacts is not None and follows_home:
                follow_home(home / "mlflow" / "mlflow.db", self._artifacts)
        self.outbox = Outbox(lambda: self.client.search_experiments(max_results=1), _ERRORS)
        self._children: dict[tuple[str, str], _RunHandle] = {}

    def _connect(self) -> MlflowClient:
        try:
            return MlflowClient(self.uri)
        except Exception as err:
            if self._artifacts is not None:
                raise
            # What an address is refused with depends on what it looks like, and on its driver.
            raise TrackingError(
                f"MLFLOW_TRACKING_URI={without_password(self.uri)} cannot be used: "
                f"{first_line(err)}. Name a server, such as http://host:5000, or a database, such "
                "as postgresql://user@host/mlflow, or unset the variable to keep the records below "
                "SICSREC_HOME"
            ) from err

    def check(self) -> None:
        """Ask a server for a sign of life; a database needs none.

        Raises:
            TrackingError: if it does not answer.
        """
        if self.uri.startswith(("http://", "https://")):
            _check_server(self.uri)

    def begin(
        self,
        experiment: str,
        name: str,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
        gone: Collection[Mapping[str, str]] = (),
    ) -> "PipelineRun":
        """Start the run of a whole pipeline.

        Runs that dead processes of this host, and those in ``gone``, left open are closed first.

        Raises:
            TrackingError: if the store cannot be reached: nothing is under way yet.
            DiskFullError: if the own database cannot take it.
        """
        try:
            with self._naming_full_disk():
                self.close_abandoned(gone)
                experiment_id = self._experiment(experiment)
                run_id = self._create_run(experiment_id, name, tags or {}, _now())
                try:
                    self._log_params(run_id, params or {})
                except _ERRORS:
                    with suppress(*_ERRORS):
                        self.client.set_terminated(run_id, "FAILED")
                    raise
        except _ERRORS as err:
            raise self._away(err) from err
        return PipelineRun(self, run_id, experiment_id)

    def _naming_full_disk(self) -> AbstractContextManager[None]:
        if self._artifacts is None:
            return nullcontext()
        return naming_full_disk(self._artifacts.parent, "MLflow's records")

    def _away(self, error: Exception) -> TrackingError:
        problem = f"MLflow at {without_password(self.uri)} cannot record a run: {first_line(error)}"
        # Of the own database there is nothing to start or unset.
        if self._artifacts is None:
            problem += (
                "\nStart it, or unset MLFLOW_TRACKING_URI to record in a database under "
                "SICSREC_HOME"
            )
        return TrackingError(problem)

    def count_experiments(self) -> int:
        """Return how many data sets have runs.

        Raises:
            TrackingError: if the store cannot be read.
        """
        with self._being_read():
            return len(self.client.search_experiments(filter_string="name != 'Default'"))

    @contextmanager
    def _being_read(self) -> Iterator[None]:
        try:
            yield
        except _ERRORS as err:
            raise TrackingError(
                f"the store {without_password(self.uri)}: {first_line(err)}"
            ) from err

    def attach(self, run_id: str, experiment_id: str | None = None) -> "PipelineRun":
        """Return the pipeline run of this id, e.g. in another process than the one that began.

        Args:
            run_id: of the run.
            experiment_id: of its experiment; looked up when it is not known.
        """
        known = experiment_id or str(self.client.get_run(run_id).info.experiment_id)
        return PipelineRun(self, run_id, known)

    def resume(self, run_id: str) -> "PipelineRun | None":
        """Open a run again that ended, e.g. with its process; None where it is gone."""
        try:
            run = self.attach(run_id)
            tags = [RunTag(key, value) for key, value in process_tags().items()]
            self.client.log_batch(run_id, tags=tags)
            if "error" in self.client.get_run(run_id).data.tags:
                self.client.delete_tag(run_id, "error")
            self.client.update_run(run_id, status="RUNNING")
        except MlflowException:
            return None
        return run

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            location = None if self._artifacts is None else (self._artifacts / name).as_uri()
            try:
                return str(
                    self.client.create_experiment(
                        name, artifact_location=location, tags=_EXPERIMENT_KIND
                    )
                )
            except MlflowException:
                # Another process may have made it in between; any other failure shows here again.
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == LifecycleStage.DELETED:
            # Its name is taken as long as MLflow keeps it.
            self.client.restore_experiment(found.experiment_id)
            logger.warning(
                "the experiment %s had been deleted in MLflow; it is restored, as this run belongs "
                "there",
                name,
            )
        for tag, kind in _EXPERIMENT_KIND.items():
            if tag not in found.tags:
                self.client.set_experiment_tag(found.experiment_id, tag, kind)
        return str(found.experiment_id)

    def close_abandoned(self, gone: Collection[Mapping[str, str]] = ()) -> None:
        """Close the runs, parents and children, that dead processes left open.

        Args:
            gone: tags of processes of other hosts that are known to be dead; those of this host
                are looked for.

        Raises:
            TrackingError: if the store cannot be reached: nothing is under way yet.
            DiskFullError: if the own database cannot take it.
        """
        try:
            with self._naming_full_disk():
                self._close_all_abandoned(gone)
        except _ERRORS as err:
            raise self._away(err) from err

    def _close_all_abandoned(self, gone: Collection[Mapping[str, str]]) -> None:
        experiments = [str(e.experiment_id) for e in self.client.search_experiments()]
        for host in {tags[HOST_TAG] for tags in (process_tags(), *gone)}:
            condition = f"attributes.status = 'RUNNING' and tags.`{HOST_TAG}` = '{host}'"
            for run in self.client.search_runs(experiments, condition, max_results=1000):
                if is_abandoned(run.data.tags, gone):
                    self.client.set_tag(run.info.run_id, "error", "the process was killed")
                    self.client.set_terminated(run.info.run_id, "KILLED")
                    logger.info("closed the MLflow run %s of a killed process", run.info.run_name)

    def marked_runs(self, tag: str) -> set[str]:
        """Return the ids of all runs that carry a tag with the value ``true``.

        Raises:
            TrackingError: if the store cannot be read.
        """
        with self._being_read():
            return self._all_marked_runs(tag)

    def _all_marked_runs(self, tag: str) -> set[str]:
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
            entries = [RunTag(key, _short(value)) for key, value in tags.items()]
            self.client.log_batch(run_id, tags=entries)
        except MlflowException as err:
            logger.warning("cannot mark the MLflow run %s: %s", run_id, first_line(err))

    def _create_run(
        self, experiment_id: str, name: str, tags: Mapping[str, str], started: int
    ) -> str:
        run = self.client.create_run(
            experiment_id,
            start_time=started,
            tags={key: _short(value) for key, value in tags.items()}
            | {**process_tags(), MLFLOW_RUN_NAME: name},
            run_name=name,
        )
        return str(run.info.run_id)

    def _log_params(self, run_id: str, params: Mapping[str, object]) -> None:
        entries = [Param(key, _short(value)) for key, value in params.items()]
        for start in range(0, len(entries), _BATCH):
            self.client.log_batch(run_id, params=entries[start : start + _BATCH])


class _RecordedRun:
    """Sends records of one run; nothing here raises because a store is away."""

    def __init__(self, store: MlflowStore, handle: _RunHandle, experiment_id: str) -> None:
        self.store = store
        self.experiment_id = experiment_id
        self._handle = handle

    def _send(self, what: str, record: Callable[[MlflowClient, str], object]) -> None:
        handle, client = self._handle, self.store.client

        def send() -> None:
            # Where MLflow refused the run itself, which was said, there is nothing to add to.
            if handle.run_id is not None:
                record(client, handle.run_id)

        self.store.outbox.send(f"{what} of {handle.name}", send)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """See :meth:`sicsrec.tracking.Tracker.log_metrics`."""
        now = _now()
        entries = [Metric(name, float(value), now, step or 0) for name, value in metrics.items()]
        for start in range(0, len(entries), _BATCH):
            some = entries[start : start + _BATCH]
            self._send("metrics", lambda c, run_id, some=some: c.log_batch(run_id, metrics=some))  # type: ignore[misc]

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """See :meth:`sicsrec.tracking.Tracker.set_tags`."""
        entries = [RunTag(key, _short(value)) for key, value in tags.items()]
        self._send("tags", lambda client, run_id: client.log_batch(run_id, tags=entries))

    def log_inputs(self, used: Sequence[UsedData]) -> None:
        """Record which data the run used, by our own digests."""
        inputs = [
            DatasetInput(
                Dataset(
                    name=data.name,
                    digest=data.digest[:_MAX_DIGEST_LENGTH],
                    source_type="sicsrec",
                    source=json.dumps(dict(data.source)),
                ),
                tags=[InputTag(MLFLOW_DATASET_CONTEXT, data.context)],
            )
            for data in used
        ]
        if inputs:
            self._send("data", lambda client, run_id: client.log_inputs(run_id, inputs))

    def end(self, status: str) -> None:
        """End the run: ``FINISHED``, ``FAILED`` or ``KILLED``."""
        now = _now()
        self._send("the end", lambda client, run_id: client.set_terminated(run_id, status, now))


def tags_of_child(run_id: str) -> dict[str, str]:
    """Return the tags that put a run below another one."""
    return {MLFLOW_PARENT_RUN_ID: run_id}


class PipelineRun(_RecordedRun):
    """The parent run of one pipeline run."""

    def __init__(self, store: MlflowStore, run_id: str, experiment_id: str) -> None:
        super().__init__(store, _RunHandle("the pipeline run", run_id), experiment_id)
        self.run_id = run_id

    @contextmanager
    def closing(self) -> Iterator[Self]:
        """End the run when the block ends: finished, failed with the error as a tag, or killed."""
        try:
            with _ended(self):
                yield self
        finally:
            self.store.outbox.flush(self.store.patience_seconds)

    @contextmanager
    def step(
        self,
        name: str,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
        used: Sequence[UsedData] = (),
        *,
        watches_system: bool = False,
    ) -> Iterator["MlflowTracker"]:
        """Open a child run for one step that really runs, and end it with the block.

        Args:
            name: of the step.
            params: its parameters.
            tags: its tags.
            used: the data it uses.
            watches_system: whether processor, memory, disk and network are recorded.
        """
        handle, started = _RunHandle(name), _now()
        all_tags = {**(tags or {}), MLFLOW_PARENT_RUN_ID: self.run_id}

        def create() -> None:
            # Called again where it raised, also where nothing but the parameters was refused.
            if handle.run_id is None:
                handle.run_id = self.store._create_run(self.experiment_id, name, all_tags, started)
            self.store._log_params(handle.run_id, params or {})

        self.store.outbox.send(f"the run of {name}", create)
        self.store._children[self.run_id, name] = handle
        tracker = MlflowTracker(self.store, handle, self.experiment_id)
        tracker.log_inputs(used)
        watching: AbstractContextManager[None] = (
            sampled(_SystemMonitors().look, tracker.log_metrics, _SAMPLE_SECONDS)
            if watches_system
            else nullcontext()
        )
        with _ended(tracker), watching:
            yield tracker

    def tracker(self) -> "MlflowTracker":
        """Return what records tables and pictures on the parent itself."""
        return MlflowTracker(self.store, self._handle, self.experiment_id)

    def link_reused(self, step: str, made_by: str) -> None:
        """Note on the parent which earlier run made the output that a step reused."""
        self.set_tags({f"reused.{step}": made_by or "unknown"})

    def log_report(self, step: str, metrics: Mapping[str, float]) -> None:
        """Record the numbers of a finished step's report on its child run."""
        handle = self.store._children.get((self.run_id, step))
        if handle is not None:
            _RecordedRun(self.store, handle, self.experiment_id).log_metrics(metrics)

    def describe(self, text: str) -> None:
        """Put a description in Markdown on the run's page, in place of an earlier one."""
        note = without_passwords(text)[:_MAX_NOTE_LENGTH]
        self._send("description", lambda c, run_id: c.set_tag(run_id, MLFLOW_RUN_NOTE, note))


class MlflowTracker(_RecordedRun):
    """Records one step in its child run; see :class:`sicsrec.tracking.Tracker`."""

    def __init__(self, store: MlflowStore, handle: _RunHandle, experiment_id: str) -> None:
        super().__init__(store, handle, experiment_id)
        self._tables: list[dict[str, str]] = []

    @property
    def run_id(self) -> str | None:
        """Id of the run; None while the store that gives it is away."""
        handle = self._handle
        self.store.outbox.wait_for(lambda: handle.run_id is not None)
        return handle.run_id

    def log_table(self, name: str, frame: pl.DataFrame) -> None:
        """See :meth:`sicsrec.tracking.Tracker.log_table`."""
        # The layout that MLflow's page shows as a table; its own function goes through pandas.
        path = f"tables/{name}.json"
        content = {"columns": frame.columns, "data": [list(row) for row in frame.rows()]}
        text = json.dumps(content, default=str)
        self._tables.append({"path": path, "type": "table"})
        tables = json.dumps(self._tables)
        self._send(f"table {name}", lambda client, run_id: client.log_text(run_id, text, path))
        self._send("tables", lambda c, run_id: c.set_tag(run_id, MLFLOW_LOGGED_ARTIFACTS, tables))

    def log_figure(self, name: str, figure: Figure) -> None:
        """See :meth:`sicsrec.tracking.Tracker.log_figure`."""
        # Compressing harder takes a quarter of a picture's time, to save a tenth of its bytes.
        options = {"compress_level": 1}
        self._log_picture(name, "png", cache(partial(draw, figure, "png", pil_kwargs=options)))

    def log_svg(self, name: str, svg: str) -> None:
        """Record a drawn picture, the text of an SVG file, under ``name``, without extension."""
        self._log_picture(name, "svg", svg.encode)

    def _log_picture(self, name: str, kind: str, content: Callable[[], bytes]) -> None:
        def upload(client: MlflowClient, run_id: str) -> None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{name}.{kind}"
                path.write_bytes(content())
                client.log_artifact(run_id, str(path), "figures")

        self._send(f"picture {name}", upload)

    def log_file(self, path: Path) -> None:
        """Record a file that stays where it is until the run has ended."""
        self._send(f"file {path.name}", lambda c, run_id: c.log_artifact(run_id, str(path)))

    def identity(self) -> dict[str, str]:
        """See :meth:`sicsrec.tracking.Tracker.identity`."""
        run_id = self.run_id
        if run_id is None:
            return {}
        return {"mlflow_run_id": run_id, "mlflow_experiment_id": self.experiment_id}


def _check_server(uri: str) -> None:
    """Ask for a sign of life first: MLflow's own client tries for minutes before it gives up."""
    try:
        # Whatever the status: what a server may refuse is said by the calls that follow.
        ask(f"{uri.rstrip('/')}/health", _SIGN_OF_LIFE_SECONDS)
    except ConnectionError as err:
        raise TrackingError(
            f"no MLflow server answers under MLFLOW_TRACKING_URI={without_password(uri)} ({err}). "
            "Start it, or unset the variable to keep the records below SICSREC_HOME"
        ) from err


class _SystemMonitors:
    """What MLflow records of a machine, under the names that its page shows apart."""

    def __init__(self) -> None:
        self._monitors: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        # Neither a library nor a card is there on most machines; MLflow says so by raising.
        try:
            self._monitors.append(GPUMonitor())
        except (ImportError, RuntimeError) as err:
            logger.debug("no GPU is watched: %s", err)

    def look(self) -> dict[str, float]:
        """Return the numbers of this moment."""
        numbers: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            numbers |= {f"system/{name}": v for name, v in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return numbers


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
def _ended(run: _RecordedRun) -> Iterator[None]:
    status = "KILLED"
    try:
        yield
        status = "FINISHED"
    except Exception as err:
        status = "FAILED"
        run.set_tags({"error": f"{type(err).__name__}: {err}"})
        raise
    finally:
        run.end(status)


def _now() -> int:
    return int(time.time() * 1000)


def _short(value: object) -> str:
    text = without_passwords(str(value))
    return text if len(text) <= _MAX_VALUE_LENGTH else text[: _MAX_VALUE_LENGTH - 1] + "…"
