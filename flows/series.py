"""Runs one after the other under one server: what comparisons and searches share."""

import logging
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.text import Text

from flows.session import RunRequest, run_flow
from flows.terminal import RunView, format_seconds
from sicsrec.errors import (
    BackendUnavailableError,
    DiskFullError,
    SharedStoreError,
    TrackingError,
)
from tasks.outcome import RunOutcome

logger = logging.getLogger(__name__)

NOT_BY_VALUES = (BackendUnavailableError, DiskFullError, SharedStoreError, TrackingError)
"""What stops a series: the configuration of a run has nothing to do with it, and the next run would
meet it too."""

Describe = Callable[[RunOutcome], str]
"""Says in words how a run ended."""


def count_cached(outcome: RunOutcome) -> str:
    """Say how many steps a run had, and how many of them were reused."""
    n_reused = sum(step.was_reused for step in outcome.steps)
    return f"{len(outcome.steps)} steps, {n_reused} of them cached"


def run_in_series(
    asked: RunRequest,
    steps: Sequence[str],
    heading: str,
    console: Console,
    describe: Describe = count_cached,
) -> RunOutcome | BaseException:
    """Run the flow inside a session; print one line of how it ended.

    Args:
        asked: the run.
        steps: names of its steps.
        heading: which of the runs it is.
        console: where to show it.
        describe: gives the words of the line where the run ended well.

    Returns:
        What the run left, or what it failed with.
    """
    started = time.monotonic()
    with RunView(console, steps, heading=heading, leaves_table=False) as view:
        state = run_flow(asked, view)
    outcome: RunOutcome | BaseException = state.result(raise_on_failure=False)
    if isinstance(outcome, RunOutcome):
        words = describe(outcome)
    else:
        logger.error("%s failed", heading, exc_info=outcome)
        words = f"failed, {outcome}"
    line = f"{heading}: {words}, {format_seconds(time.monotonic() - started)}"
    console.print(Text(line), soft_wrap=True)
    return outcome


def in_words(error: BaseException) -> str:
    """Say what a run failed with."""
    return f"{type(error).__name__}: {error}"
