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
"""``advance(n=1, note="")``: ``n`` more units are done; ``note`` is a short word on the state."""


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
        logger.info("%s: started (%s)", description, "?" if total is None else total)

        def advance(n: int = 1, note: str = "") -> None:
            nonlocal done, last
            done += n
            now = time.monotonic()
            if now - last >= self.every_seconds:
                last = now
                left = (
                    f", about {(now - started) / done * (total - done):.0f} s left"
                    if total and done
                    else ""
                )
                logger.info("%s: %d of %s%s %s", description, done, total or "?", left, note)

        yield advance
        logger.info("%s: done, %d in %.1f s", description, done, time.monotonic() - started)


class NoProgress:
    """Shows nothing."""

    @contextmanager
    def stage(self, description: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002
        """See :meth:`Progress.stage`."""

        def advance(n: int = 1, note: str = "") -> None:
            del n, note

        yield advance
