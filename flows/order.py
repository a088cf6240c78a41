"""One stage of the pipeline: its tasks in order, references passed from one to the next."""

from collections.abc import Sequence
from typing import Any

from prefect import Task

from sicsrec.artifacts import ArtifactRef
from sicsrec.config import PipelineConfig
from tasks.outcome import Refs, StepOutcome
from tasks.record import RunRecord

StepTask = Task[[PipelineConfig, Refs, RunRecord], StepOutcome]


def run_in_order(
    tasks: Sequence[StepTask], config: PipelineConfig, refs: Refs, run: RunRecord
) -> list[StepOutcome]:
    """Run those of ``tasks`` that this run wants; each sees ``refs`` and what came before it."""
    outcomes: list[StepOutcome] = []
    known: dict[str, ArtifactRef] = dict(refs)
    for task in tasks:
        if task.name not in run.steps:
            continue
        state: Any = task(config, known, run, return_state=True)
        outcome: StepOutcome = state.result()
        outcomes.append(outcome)
        known |= outcome.refs
    return outcomes


def refs_of(outcomes: Sequence[StepOutcome]) -> dict[str, ArtifactRef]:
    """Return the references of all outputs, keyed by ``step/output``."""
    return {name: ref for outcome in outcomes for name, ref in outcome.refs.items()}
