"""Item embeddings and the ID encoder, trained alone."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from sicsrec.config import PipelineConfig
from tasks._run import call_step
from tasks.outcome import Refs, StepOutcome
from tasks.record import RunRecord


@task(
    name="pretrain_id",
    task_run_name="pretrain_id {config.dataset}",
    cache_policy=NO_CACHE,
)
def pretrain_id(config: PipelineConfig, refs: Refs, run: RunRecord) -> StepOutcome:
    """See :mod:`sicsrec.steps.pretrain_id`."""
    return call_step("pretrain_id", config, refs, run)
