"""What a host does that trains together with the one that runs the pipeline."""

from collections.abc import Callable

from sicsrec.training.hosts import join_trainings
from tasks.settings import Settings


def join(settings: Settings, host: int, tell: Callable[[str], None]) -> None:
    """Take part in all trainings of runs with the same home, until interrupted.

    Args:
        settings: of this host.
        host: its number, from 1.
        tell: receives what happens, line by line.
    """
    join_trainings(settings.home, host, tell)
