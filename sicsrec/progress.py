"""How long work inside the library tells its caller how far it is.

The library never writes to a terminal. A step opens a stage, advances it, and whoever runs the
step decides what to show: a bar, a log line, a Prefect progress artifact, or nothing.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

logger = logging.getLogger(__name__)

Advance = Callable[..., None]
"""``advance(n=1, note="")``: ``n`` more units are done; ``note`` is a short word on the state. A
stage that goes on where a killed process was begins by advancing to there."""


class TimeLeft:
    """Estimates how long a stage still takes, by what was done since it was first told anything.

    What the first call tells may have been done by another process, in a time nobody knows.

    Args:
        total: units of the stage.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._first: tuple[float, int] | None = None

    def seconds(self, now: float, done: int) -> float | None:
        """Return the estimate, None where there is nothing yet to go by.

        Args:
            now: seconds on any clock.
            done: units done by then.
        """
        if self._first is None:
            self._first = (now, done)
        started, before = self._first
        if done <= before:
            return None
        return (now - started) / (done - before) * max(self._total - done, 0)


@runtime_checkable
class Progress(Protocol):
    """Receives the progress of named stages."""

    def stage(self, description: str, total: int | None) -> AbstractContextManager[Advance]:
        """Open a stage of ``total`` units (None: unknown) and yield its ``advance`` function."""
        ...


class LogProgress:
    """Writes one log line at the start, at the end and every ``every_seconds`` between."""

    def __init__(self, every_seconds: float = 30.0) -> None:
        self.every_seconds = every_seconds

    @contextmanager
    def stage(self, description: str, total: int | None) -> Iterator[Advance]:
        """See :meth:`Progress.stage`."""
        started = last = time.monotonic()
        done = 0
        time_left = None if total is None else TimeLeft(total)
        logger.info("%s: started%s", description, "" if total is None else f" ({total})")

        def advance(n: int = 1, note: str = "") -> None:
            nonlocal done, last
            done += n
            now = time.monotonic()
            seconds = time_left.seconds(now, done) if time_left else None
            if now - last >= self.every_seconds:
                last = now
                left = "" if seconds is None else f", about {seconds:.0f} s left"
                logger.info("%s: %d of %s%s %s", description, done, total or "?", left, note)

        yield advance
        counted = f", {done}" if done else ""
        logger.info("%s: done%s in %.1f s", description, counted, time.monotonic() - started)


class NoProgress:
    """Shows nothing."""

    @contextmanager
    def stage(self, description: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002
        """See :meth:`Progress.stage`."""

        def advance(n: int = 1, note: str = "") -> None:
            del n, note

        yield advance
