"""What a running step is given, and what it gives back."""

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sicsrec.artifacts import ArtifactReader, PendingArtifact
from sicsrec.cluster import Hosts, OpenCluster
from sicsrec.config import PipelineConfig
from sicsrec.errors import LeakageError
from sicsrec.progress import NoProgress, Progress
from sicsrec.tracking import NullTracker, Tracker

logger = logging.getLogger(__name__)

ReadSecret = Callable[[str], str | None]
"""Gives the secret that goes by a name, None when there is none; the configuration holds names."""


def no_secrets(name: str) -> str | None:  # noqa: ARG001
    """Know no secret."""
    return None


@dataclass(frozen=True)
class StepReport:
    """Numbers a person wants of one step, written to ``report.json``."""

    rows: int
    """The count that tells the size of the step's work; shown in the table of steps."""
    rows_of: str
    """What was counted, in the plural."""
    content: dict[str, Any] = field(default_factory=dict)
    """Anything more: nested dicts, lists, strings, finite numbers, None."""


@dataclass(frozen=True)
class StepContext:
    """Everything ``run`` of a step may use; it has no way to the rest of the store."""

    config: PipelineConfig
    inputs: Mapping[str, ArtifactReader]
    pending: PendingArtifact
    tracker: Tracker = field(default_factory=NullTracker)
    progress: Progress = field(default_factory=NoProgress)
    device: str = "cpu"
    """A torch device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    open_cluster: OpenCluster = field(default=nullcontext, repr=False)
    """Gives who takes over parts of the work, or None; for steps whose work comes in parts."""
    n_processes: int = 1
    """Processes of each host that train a sequence model together."""
    hosts: Hosts | None = None
    """Who trains a sequence model together; None: this host alone."""
    read_secret: ReadSecret = field(default=no_secrets, repr=False)

    @property
    def seed(self) -> int:
        """Seed of everything the step draws."""
        return self.config.seed

    @property
    def work(self) -> Path:
        """Folder for checkpoints; what lies there outlives a killed process."""
        return self.pending.work

    @property
    def cache(self) -> Path:
        """Folder for what is worth keeping beyond this key, e.g. answers that were paid for; all
        keys of the step on this dataset share it, so whoever writes there holds a lock.
        """
        return self.pending.cache

    def input(self, name: str) -> ArtifactReader:
        """Return the reader of one declared input, e.g. ``split/train``.

        Raises:
            LeakageError: if the step did not declare it.
        """
        if name not in self.inputs:
            raise LeakageError(
                f"this step did not declare the input {name}; it has {list(self.inputs)}"
            )
        return self.inputs[name]

    def output(self, name: str) -> Path:
        """Return the folder of one declared output."""
        return self.pending.output(name)
