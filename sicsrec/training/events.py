"""What a process that trains says to the one that started it: lines of JSON in a file."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sicsrec import errors
from sicsrec.progress import Advance
from sicsrec.tracking import NullTracker, Tracker


def events_path(folder: Path, rank: int) -> Path:
    """Return the file of the events of one process that works on the job in ``folder``."""
    return folder / f"events-{rank}.jsonl"


class EventWriter(NullTracker):
    """A tracker and a progress that write down what they are told.

    Args:
        path: of the file; emptied.
    """

    def __init__(self, path: Path) -> None:
        # Line by line, so that what is written is there when this process dies.
        self._file = path.open("w", encoding="utf-8", buffering=1)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """See :meth:`Tracker.log_metrics`."""
        self._write(event="metrics", metrics=dict(metrics), step=step)

    @contextmanager
    def stage(self, description: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002
        """See :meth:`Progress.stage`; the stage itself is the reader's."""

        def advance(n: int = 1, note: str = "") -> None:
            self._write(event="advance", n=n, note=note)

        yield advance

    def fail(self, error: errors.SicsrecError) -> None:
        """Write down why this process ends."""
        self._write(event="error", kind=type(error).__name__, message=str(error))

    def _write(self, **event: Any) -> None:
        self._file.write(json.dumps(event) + "\n")


class EventReader:
    """Passes on what was written.

    Args:
        path: of the file, which need not be there yet.
        tracker: receives the metrics; None: nobody does.
        advance: receives the progress, likewise.
    """

    def __init__(
        self, path: Path, tracker: Tracker | None = None, advance: Advance | None = None
    ) -> None:
        self._path = path
        self._tracker = tracker
        self._advance = advance
        self._place = 0
        self.error: errors.SicsrecError | None = None
        """The error that was written down."""

    def read(self) -> None:
        """Pass on what is new; a line that is not whole yet is left for the next time."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._place)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._place += len(line)
                self._pass_on(json.loads(line))

    def _pass_on(self, event: dict[str, Any]) -> None:
        kind = event.pop("event")
        if kind == "metrics" and self._tracker is not None:
            self._tracker.log_metrics(event["metrics"], event["step"])
        elif kind == "advance" and self._advance is not None:
            self._advance(event["n"], event["note"])
        elif kind == "error":
            self.error = getattr(errors, event["kind"])(event["message"])
