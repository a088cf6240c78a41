"""An error of ours is one line for whoever watches a run; its traceback goes to a file.

Prefect writes the tracebacks of a failed task, of its flow and of a stopped one into its log, and
that log is what the page and ``prefect deployment run --watch`` show. Errors that are not ours keep
theirs there. Neither has the passwords of servers.
"""

import io
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import datetime
from pathlib import Path
from typing import TextIO

from prefect.exceptions import TerminationSignal
from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler
from prefect.runtime import flow_run

from sicsrec.addresses import WithoutPasswords, without_passwords
from sicsrec.errors import SicsrecError

_LOGGERS = ("", "sicsrec", "prefect.flow_runs", "prefect.task_runs")
"""Those that Prefect gives handlers and that lines of a run go to."""


def _without_traceback(record: logging.LogRecord) -> bool:
    """Let every line of a task pass; that of an error of ours without the traceback."""
    if _is_of_our_error(record):
        record.exc_info = None
    return True


def _is_no_echo(record: logging.LogRecord) -> bool:
    """Hold back what the engine says of a flow that ended with an error of ours, or was stopped.

    It is "exited with unexpected exception", or "interrupted by base exception", and the traceback;
    the flow's state holds the message, and that it was stopped.
    """
    was_stopped = record.exc_info is not None and isinstance(
        record.exc_info[1], KeyboardInterrupt | TerminationSignal
    )
    return not (was_stopped or _is_of_our_error(record))


def _is_of_our_error(record: logging.LogRecord) -> bool:
    return record.exc_info is not None and isinstance(record.exc_info[1], SicsrecError)


def keep_tracebacks_out_of_prefect() -> None:
    """From now on Prefect's log has errors of ours as one line; calling it again does nothing."""
    logging.getLogger("prefect.task_runs").addFilter(_without_traceback)
    logging.getLogger("prefect.flow_runs").addFilter(_is_no_echo)


def keep_passwords_out_of_prefect() -> None:
    """From now on Prefect's log, in the terminal too, shows no password of a server.

    Calling it again does nothing.
    """
    for name in _LOGGERS:
        for handler in logging.getLogger(name).handlers:
            is_prefects = isinstance(handler, APILogHandler | PrefectConsoleHandler)
            if is_prefects and not isinstance(handler.formatter, WithoutPasswords):
                handler.setFormatter(WithoutPasswords(handler.formatter))


class _TerminalWithoutPasswords(io.TextIOBase):
    """Writes to another stream, in no address a user and password."""

    def __init__(self, inner: TextIO) -> None:
        self._inner = inner

    def write(self, text: str) -> int:
        self._inner.write(without_passwords(text))
        return len(text)

    def flush(self) -> None:
        self._inner.flush()


@contextmanager
def no_password_printed() -> Iterator[None]:
    """Show no password of a server in what is printed inside the block.

    Prefect's loops print the tracebacks of calls that fail, past all handlers of its log, and its
    runner passes on what the processes of runs print.
    """
    with (
        redirect_stdout(_TerminalWithoutPasswords(sys.stdout)),
        redirect_stderr(_TerminalWithoutPasswords(sys.stderr)),
    ):
        yield


def write_traceback(error: BaseException, folder: Path) -> Path | None:
    """Write the traceback of what ended the running flow to a file; None when the disk is full."""
    now = datetime.now().astimezone()
    path = folder / f"{now:%Y%m%d-%H%M%S}-{flow_run.id}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(
            without_passwords("".join(traceback.format_exception(error))), encoding="utf-8"
        )
    except OSError:
        return None
    return path
