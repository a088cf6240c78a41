"""Interactions to train, valid and test."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from sicsrec.config import PipelineConfig
from tasks._run import call_step
from tasks.outcome import Refs, StepOutcome
from tasks.record import RunRecord


@task(
    name="split",
    task_run_name="split {config.dataset}",
    cache_policy=NO_CACHE,
)
def split(config: PipelineConfig, refs: Refs, run: RunRecord) -> StepOutcome:
    """See :mod:`sicsrec.steps.split`."""
    return call_step("split", config, refs, run)
