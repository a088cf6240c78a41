"""A search that outlives its process: Optuna proposes, a SQLite file remembers."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sicsrec.errors import ConfigError
from sicsrec.tuning.ranges import Range, encode, is_equal

logger = logging.getLogger(__name__)

Values = dict[str, Any]
"""Dotted path to the value tried there."""


@dataclass(frozen=True)
class Proposal:
    """A trial to be carried out."""

    number: int
    """From 1; a trial that was killed and is made again keeps its number."""
    values: Values
    handle: int
    """Number of the trial in the study."""


@dataclass(frozen=True)
class TrialRow:
    """A trial that ended."""

    number: int
    values: Values
    value: float | None
    """Of the validation metric; None where the trial failed."""
    note: str
    """Why it failed."""


class Study:
    """Proposes values and keeps what came of them.

    A trial's values depend on the seed and on the trials before it alone, so a study that was
    killed and goes on proposes what an undisturbed one does.

    Args:
        url: of the database.
        name: of the study in it.
        ranges: what may be tried.
        seed: of the proposals.
    """

    def __init__(self, url: str, name: str, ranges: Sequence[Range], seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self._ranges = ranges
        self._seed = seed
        self._asked: dict[int, optuna.Trial] = {}
        self._study = optuna.create_study(
            storage=url, study_name=name, direction="maximize", load_if_exists=True
        )
        for trial in self._study.get_trials(deepcopy=False):
            if not trial.state.is_finished() and trial.state.name == "RUNNING":
                self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                logger.info("trial %d of %s was cut off and is made again", trial.number, name)

    def remember(self, name: str, value: str) -> None:
        """Keep a word with the study."""
        self._study.set_user_attr(name, value)

    def recall(self, name: str) -> str | None:
        """Return a word that was kept, in whichever process."""
        return self._study.user_attrs.get(name)

    def propose(self, own: Mapping[str, Any]) -> Proposal:
        """Return what to try next.

        Args:
            own: the configuration's own values by path. They come before any others, exactly as
                they are, where the ranges hold them and no trial had them, so that the winner is
                never worse on validation than they are. Otherwise the log says why they are not
                tried.
        """
        rows = self.rows()
        number = len(rows) + 1
        fault = _why_not_tried(self._ranges, own)
        is_own = fault is None and not has_tried(rows, own)
        if fault is not None and number == 1:
            logger.info("the configuration's own values are not tried: %s", fault)
        # A process that was killed right here before has left it waiting.
        trials = self._study.get_trials(deepcopy=False)
        if is_own and all(trial.state.name != "WAITING" for trial in trials):
            self._study.enqueue_trial({r.name: _to_study(r, own[r.paths[0]]) for r in self._ranges})
        self._study.sampler = self._optuna.samplers.TPESampler(seed=self._seed + number)
        trial = self._study.ask()
        drawn = {entry.name: _suggest(trial, entry) for entry in self._ranges}
        values = {
            path: own[path] if is_own else drawn[entry.name]
            for entry in self._ranges
            for path in entry.paths
        }
        trial.set_user_attr("values", json.dumps(values))
        self._asked[number] = trial
        return Proposal(number, values, trial.number)

    def tell(self, proposal: Proposal, value: float) -> None:
        """Keep the validation figure of a trial."""
        self._study.tell(proposal.handle, value)

    def tell_failed(self, proposal: Proposal, reason: str) -> None:
        """Keep that a trial failed, and why."""
        self._asked[proposal.number].set_user_attr("failed", reason)
        self._study.tell(proposal.handle, state=self._optuna.trial.TrialState.FAIL)

    def rows(self) -> list[TrialRow]:
        """Return the trials that ended, in order; those that were cut off did not."""
        rows: list[TrialRow] = []
        for trial in self._study.get_trials(deepcopy=False):
            reason = trial.user_attrs.get("failed", "")
            if trial.value is None and not reason:
                continue
            values = json.loads(trial.user_attrs["values"])
            rows.append(TrialRow(len(rows) + 1, values, trial.value, reason))
        return rows


def has_tried(rows: Sequence[TrialRow], values: Mapping[str, Any]) -> bool:
    """Whether a trial had these values, however it ended."""
    return any(row.values == values for row in rows)


def best_of(rows: Sequence[TrialRow]) -> TrialRow | None:
    """Return the best trial, the earliest of equal ones; None where all failed."""
    done = [row for row in rows if row.value is not None]
    return max(done, key=lambda row: (row.value or 0.0, -row.number), default=None)


@contextmanager
def open_study(folder: Path, name: str, ranges: Sequence[Range], seed: int) -> Iterator[Study]:
    """Open or begin a study; one process at a time may carry it out.

    Args:
        folder: where the database lies.
        name: of the study.
        ranges: what may be tried.
        seed: of the proposals.

    Raises:
        ConfigError: if Optuna is not installed, or another process carries the study out.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as err:
        raise ConfigError(
            "a search needs Optuna; install it with: pip install 'sicsrec[search]'"
        ) from err
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as err:
        raise ConfigError(
            f"the search {name} is being carried out by another process; wait for it or stop it"
        ) from err
    try:
        yield Study(f"sqlite:///{folder / 'optuna.db'}", name, ranges, seed)
    finally:
        lock.release()


def _why_not_tried(ranges: Sequence[Range], own: Mapping[str, Any]) -> str | None:
    """Return why the configuration's own values cannot be a trial; None when they can."""
    for entry in ranges:
        for path in entry.paths:
            if not entry.holds(own[path]):
                return f"{path} is {encode(own[path])}, which is none of its range"
        if any(own[path] != own[entry.paths[0]] for path in entry.paths):
            each = ", ".join(f"{path} is {encode(own[path])}" for path in entry.paths)
            return f"the range is one of equal values, but {each}"
    return None


def _suggest(trial: Any, entry: Range) -> Any:
    interval = entry.interval
    if interval is None:
        drawn = trial.suggest_categorical(entry.name, [encode(choice) for choice in entry.choices])
        return json.loads(drawn)
    if entry.is_whole:
        low, high = int(interval.low), int(interval.high)
        step = int(interval.step or 1)
        return trial.suggest_int(entry.name, low, high, log=interval.log, step=step)
    drawn = trial.suggest_float(
        entry.name, interval.low, interval.high, log=interval.log, step=interval.step
    )
    # What is tried is what a person reads, and what a preset holds.
    return min(max(float(f"{drawn:.4g}"), interval.low), interval.high)


def _to_study(entry: Range, value: Any) -> Any:
    if entry.interval is None:
        return encode(next(choice for choice in entry.choices if is_equal(value, choice)))
    return int(value) if entry.is_whole else float(value)
