"""What a task gives back, and who watches a run. Imports no Prefect, so a terminal is quick."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from sicsrec.artifacts import ArtifactRef
from sicsrec.progress import LogProgress, Progress

logger = logging.getLogger("sicsrec.tasks")

Refs = Mapping[str, ArtifactRef]
"""References of outputs made so far, keyed by ``step/output``."""


@dataclass(frozen=True)
class StepOutcome:
    """How one step of a run ended; a few hundred bytes."""

    name: str
    was_reused: bool
    rows: int
    rows_of: str
    seconds: float
    key: str
    n_bytes: int
    refs: dict[str, ArtifactRef]
    folder: str
    """Folder of the artifact."""
    fetched_from: str = ""
    """Address of the shared store a reused step was fetched from; empty when it was here."""


@dataclass(frozen=True)
class RunOutcome:
    """How one run of the pipeline ended."""

    steps: tuple[StepOutcome, ...]
    mlflow_experiment_id: str
    mlflow_run_id: str
    registered: str = ""
    """What became of the model in MLflow, in one line; empty where none was to be registered."""
    report: str | None = None
    """Path of the page on the run; None where none was made."""


class Observer(Protocol):
    """Whoever watches a run in the process in which it runs, e.g. a terminal."""

    @property
    def progress(self) -> Progress:
        """Receives the stages of the running step."""
        ...

    def started(self, step: str) -> None:
        """Called when a step starts."""
        ...

    def ended(self, outcome: StepOutcome) -> None:
        """Called when a step ended without an error."""
        ...


class LogObserver:
    """Writes log lines."""

    def __init__(self) -> None:
        self.progress: Progress = LogProgress()

    def started(self, step: str) -> None:
        """See :meth:`Observer.started`."""
        logger.info("%s: started", step)

    def ended(self, outcome: StepOutcome) -> None:
        """See :meth:`Observer.ended`."""
        how = "reused" if outcome.was_reused else f"done in {outcome.seconds:.1f} s"
        if outcome.fetched_from:
            how = f"reused, fetched from {outcome.fetched_from} in {outcome.seconds:.1f} s"
        logger.info("%s: %s, %d %s", outcome.name, how, outcome.rows, outcome.rows_of)


_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)


def current_observer() -> Observer:
    """Return who watches the running flow; log lines when nobody does."""
    return _observer.get() or LogObserver()


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Let ``observer`` watch the steps that run inside the block, in this process."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)
