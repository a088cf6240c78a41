"""Items to text and image vectors."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from sicsrec.config import PipelineConfig
from tasks._run import call_step
from tasks.outcome import Refs, StepOutcome
from tasks.record import RunRecord


@task(
    name="encode_items",
    task_run_name="encode_items {config.dataset}",
    cache_policy=NO_CACHE,
)
def encode_items(config: PipelineConfig, refs: Refs, run: RunRecord) -> StepOutcome:
    """See :mod:`sicsrec.steps.encode_items`."""
    return call_step("encode_items", config, refs, run)
