"""Which steps a run is about."""

import difflib
from collections.abc import Sequence

from sicsrec.config import PipelineConfig
from sicsrec.errors import ConfigError
from sicsrec.steps import STEP_NAMES, STEPS, get_step, inputs_of

_OPTIONS = ("--until", "--step", "--refresh")
_PARAMETERS = ("until", "steps", "refresh")
"""What a deployment calls them: `prefect deployment run ... -p refresh='["split"]'`."""


def select_steps(
    config: PipelineConfig,
    until: str | None = None,
    refresh: Sequence[str] = (),
    wanted: Sequence[str] = (),
    *,
    as_parameters: bool = False,
) -> tuple[str, ...]:
    """Return the names of the steps to run or reuse, in order.

    Args:
        config: the whole configuration.
        until: the last step; None: no limit.
        refresh: steps that run even when they could be reused.
        wanted: only these and what they need before them; none: all.
        as_parameters: whether messages name parameters of a deployment in place of options.

    Raises:
        ConfigError: if a name is unknown, or a named step is not part of the run.
    """
    ends = [until] if until else []
    last_one, only, again = _PARAMETERS if as_parameters else _OPTIONS
    for option, names in ((last_one, ends), (only, wanted), (again, refresh)):
        for name in names:
            _check_name(option, name)
    last = STEP_NAMES.index(until) if until else len(STEP_NAMES) - 1
    reached = tuple(step.name for step in STEPS[: last + 1] if step.is_needed(config))
    _check_reached(only, wanted, reached)
    kept = _with_what_they_need(wanted, config) if wanted else set(reached)
    selected = tuple(name for name in reached if name in kept)
    _check_reached(again, refresh, selected)
    return selected


def _check_name(option: str, name: str) -> None:
    if name not in STEP_NAMES:
        close = difflib.get_close_matches(name, STEP_NAMES, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ConfigError(
            f"{option} {name}: there is no such step.{hint} Steps: {', '.join(STEP_NAMES)}"
        )


def _check_reached(option: str, names: Sequence[str], steps: Sequence[str]) -> None:
    for name in names:
        if name not in steps:
            raise ConfigError(
                f"{option} {name}: this run does not reach or need that step; it is about "
                f"{', '.join(steps)}"
            )


def _with_what_they_need(names: Sequence[str], config: PipelineConfig) -> set[str]:
    needed: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in needed:
            needed.add(name)
            left += [entry.name.split("/")[0] for entry in inputs_of(get_step(name), config)]
    return needed
