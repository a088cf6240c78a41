"""Joint fine-tuning of the text and the image encoder."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from sicsrec.config import PipelineConfig
from tasks._run import call_step
from tasks.outcome import Refs, StepOutcome
from tasks.record import RunRecord


@task(
    name="align_encoders",
    task_run_name="align_encoders {config.dataset}",
    cache_policy=NO_CACHE,
)
def align_encoders(config: PipelineConfig, refs: Refs, run: RunRecord) -> StepOutcome:
    """See :mod:`sicsrec.steps.align_encoders`."""
    return call_step("align_encoders", config, refs, run)
