"""Servers that end with the process that started them, however that comes about.

``python -m flows.following COMMAND ...``, started with a pipe as its standard input, runs the
command. The pipe closes when the process at its other end is gone, also when it was killed; the
command is told to end then. A server that outlives its starter would hold the port that the next
start wants.
"""

import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

import psutil

from sicsrec.starter import when_starter_ends

_END_SECONDS = 20.0
"""How long a server that was told to end may take."""


def start_following(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command that ends when this process does.

    It has a session of its own: Ctrl-C is for this process, which may still need the server.

    Args:
        command: what to run.
        environment: its variables.
        stdout: where it prints, as :class:`subprocess.Popen` takes it.
        stderr: where it complains; None: where this process does.
    """
    return subprocess.Popen(  # noqa: S603 - commands are made in this package
        [sys.executable, "-m", "flows.following", *command],
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """Tell a server to end, and kill it when it does not or nobody wants to wait for it."""
    process.terminate()
    try:
        process.wait(timeout=_END_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        # Some servers are a process that starts others, which would go on without it.
        below = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        for child in below:
            with suppress(psutil.NoSuchProcess):
                child.kill()
    finally:
        if process.stdin is not None:
            process.stdin.close()


def follow(command: Sequence[str]) -> int:
    """Run a command until it ends or standard input does; return its exit status."""
    is_over = threading.Event()

    def be_told(_number: int, _frame: object) -> None:
        is_over.set()

    signal.signal(signal.SIGINT, be_told)
    signal.signal(signal.SIGTERM, be_told)
    when_starter_ends(is_over.set)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603
    while process.poll() is None:
        if is_over.wait(timeout=0.2):
            end(process)
    return process.returncode


if __name__ == "__main__":
    sys.exit(follow(sys.argv[1:]))
