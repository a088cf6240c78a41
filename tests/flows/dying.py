"""Kills this process with SIGKILL just before it touches its files, at a moment that is named.

Python announces what it is about to do with files as audit events; SQLAlchemy announces commits.
Both reach this module without a change to the code under test. What C and Rust libraries write
announces nothing; a delay after an event hits that.
"""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"}


@dataclass(frozen=True)
class Death:
    """When a process is to die."""

    under: str
    """Only events on paths below this folder count, and commits of databases there."""
    pattern: str = ""
    """Regular expression, searched in ``<event> <path> [<path>]``, ``commit <database>``."""
    number: int = 1
    """Die at so many matching events; 0 never."""
    delay: float = 0.0
    """Seconds from that event until the end."""
    stops: bool = False
    """Stop (SIGSTOP) in place of dying, so that somebody else kills at this very moment."""
    log: str | None = None
    """File that takes every event, one a line."""


def arm(death: Death) -> None:
    """Watch this process from now on."""
    pattern, count = re.compile(death.pattern), 0
    log = None if death.log is None else Path(death.log).open("a", buffering=1)  # noqa: SIM115

    def note(event: str, *paths: str) -> None:
        nonlocal count
        line = " ".join([event, *paths])
        if log is not None:
            log.write(line + "\n")
        if not pattern.search(line):
            return
        count += 1
        if count == death.number:
            if death.delay:
                threading.Timer(death.delay, _die, [death]).start()
            else:
                _die(death)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        paths = _written(event, arguments)
        if paths and paths[0].startswith(death.under) and paths[0] != death.log:
            note(event, *paths)

    sys.addaudithook(hook)
    if "sqlalchemy" in sys.modules:
        _watch_databases(death.under, note)


def _written(event: str, arguments: tuple[object, ...]) -> list[str]:
    """Return the paths of an event that changes files, none for any other event."""
    if event not in _EVENTS:
        return []
    paths = [os.fsdecode(a) for a in arguments[:2] if isinstance(a, str | bytes | os.PathLike)]
    if event != "open":
        return paths
    flags = arguments[2]
    return paths[:1] if isinstance(flags, int) and flags & _WRITES else []


def _watch_databases(under: str, note: Callable[[str, str], None]) -> None:
    import sqlalchemy

    def committing(connection: sqlalchemy.Connection) -> None:
        database = str(connection.engine.url.database or "")
        if database.startswith(under):
            note("commit", database)

    sqlalchemy.event.listen(sqlalchemy.Engine, "commit", committing)


def _die(death: Death) -> None:
    if death.stops:
        # A stopped process keeps what it has locked, in contrast to a dead one: no transaction of
        # the thread that records may be open, or nobody else gets at the database of MLflow.
        for thread in threading.enumerate():
            if thread.name == "records" and thread is not threading.current_thread():
                thread.join()
    os.kill(os.getpid(), signal.SIGSTOP if death.stops else signal.SIGKILL)
