"""Recommendations, vectors and a model folder."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from sicsrec.config import PipelineConfig
from tasks._run import call_step
from tasks.outcome import Refs, StepOutcome
from tasks.record import RunRecord


@task(
    name="export",
    task_run_name="export {config.dataset}",
    cache_policy=NO_CACHE,
)
def export(config: PipelineConfig, refs: Refs, run: RunRecord) -> StepOutcome:
    """See :mod:`sicsrec.steps.export`."""
    return call_step("export", config, refs, run)
