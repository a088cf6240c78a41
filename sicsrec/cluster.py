"""Other processes, on this machine or on others, that take over parts of a step's work.

The library knows no engine: whoever runs a step brings an executor, e.g. that of a Dask client.
Functions and arguments that are sent are the library's own, small, and name files by their paths,
so all processes have to see the store under the same path.
"""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sicsrec.errors import ConfigError

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Cluster:
    """An executor and how much it does at a time."""

    executor: Executor
    n_workers: int
    """Calls that are worked on at the same time."""

    def spread(
        self, call: Callable[[Task], Result], tasks: Iterator[Task | None]
    ) -> Iterator[tuple[Task, Result]]:
        """Yield tasks and what a call with each returns, as they are done.

        No more than two per worker are under way, and a task is taken only when there is room.

        Args:
            call: a function of a module, or a partial of one, that all workers can import.
            tasks: arguments; None asks to finish one that is under way before the next is taken.

        Raises:
            Exception: what a call raises; what is not under way yet is not begun then.
        """
        under_way: dict[Future[Result], Task] = {}
        try:
            for task in tasks:
                if task is not None:
                    under_way[self.executor.submit(call, task)] = task
                if under_way and (task is None or len(under_way) >= 2 * self.n_workers):
                    yield from _finished(under_way)
            while under_way:
                yield from _finished(under_way)
        finally:
            for future in under_way:
                future.cancel()


OpenCluster = Callable[[], AbstractContextManager[Cluster | None]]
"""Gives the cluster to a step that really runs; None: the step does all itself."""


def _finished(under_way: dict[Future[Result], Task]) -> Iterator[tuple[Task, Result]]:
    done, _ = wait(under_way, return_when=FIRST_COMPLETED)
    for future in done:
        yield under_way.pop(future), future.result()


def check_seen(*paths: Path) -> None:
    """Check that the process that works sees what the one that asked speaks of.

    Raises:
        ConfigError: naming the machine and the path that is not there.
    """
    for path in paths:
        if not path.exists():
            raise ConfigError(
                f"the worker on {socket.gethostname()} sees no {path}; SICSREC_HOME must be a "
                "folder that all machines of the cluster share, under the same path"
            )


@dataclass(frozen=True)
class Hosts:
    """Hosts that train together; this is the first of them.

    Raises:
        ConfigError: if there are fewer than two.
    """

    n_hosts: int
    address: str
    """Of the first host, as the others reach it."""
    port: int
    folder: Path
    """What all of them share; job and checkpoint of every training lie below it."""

    def __post_init__(self) -> None:
        """Check the number."""
        if self.n_hosts < 2:
            raise ConfigError(f"several hosts are two at least, found {self.n_hosts}")
