"""Raw files to a validated catalogue, covers and interactions."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from sicsrec.config import PipelineConfig
from tasks._run import call_step
from tasks.outcome import Refs, StepOutcome
from tasks.record import RunRecord


@task(
    name="ingest",
    task_run_name="ingest {config.dataset}",
    cache_policy=NO_CACHE,
)
def ingest(config: PipelineConfig, refs: Refs, run: RunRecord) -> StepOutcome:
    """See :mod:`sicsrec.steps.ingest`."""
    return call_step("ingest", config, refs, run)
