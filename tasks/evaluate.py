"""Full ranking of the held-out targets, beside simple rivals."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from sicsrec.config import PipelineConfig
from tasks._run import call_step
from tasks.outcome import Refs, StepOutcome
from tasks.record import RunRecord


@task(
    name="evaluate",
    task_run_name="evaluate {config.dataset}",
    cache_policy=NO_CACHE,
)
def evaluate(config: PipelineConfig, refs: Refs, run: RunRecord) -> StepOutcome:
    """See :mod:`sicsrec.steps.evaluate`."""
    return call_step("evaluate", config, refs, run)
