"""Which steps a run is about."""

import difflib
from collections.abc import Sequence

from sicsrec.config import PipelineConfig
from sicsrec.errors import ConfigError
from sicsrec.steps import STEP_NAMES, STEPS


def select_steps(
    config: PipelineConfig, until: str | None = None, refresh: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the names of the steps to run or reuse, in order.

    Raises:
        ConfigError: if a name is unknown, or a step to be refreshed is not part of the run.
    """
    for option, names in (("--until", [until] if until else []), ("--refresh", refresh)):
        for name in names:
            if name not in STEP_NAMES:
                close = difflib.get_close_matches(name, STEP_NAMES, 1)
                hint = f" Did you mean {close[0]}?" if close else ""
                raise ConfigError(
                    f"{option} {name}: there is no such step.{hint} Steps: {', '.join(STEP_NAMES)}"
                )
    last = STEP_NAMES.index(until) if until else len(STEP_NAMES) - 1
    selected = tuple(step.name for step in STEPS[: last + 1] if step.is_needed(config))
    for name in refresh:
        if name not in selected:
            raise ConfigError(
                f"--refresh {name}: this run does not reach or need that step; it is about "
                f"{', '.join(selected)}"
            )
    return selected
