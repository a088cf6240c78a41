"""SICSRec, on top of the pre-trained ID encoder."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from sicsrec.config import PipelineConfig
from tasks._run import call_step
from tasks.outcome import Refs, StepOutcome
from tasks.record import RunRecord


@task(
    name="train_sicsrec",
    task_run_name="train_sicsrec {config.dataset}",
    cache_policy=NO_CACHE,
)
def train_sicsrec(config: PipelineConfig, refs: Refs, run: RunRecord) -> StepOutcome:
    """See :mod:`sicsrec.steps.train_sicsrec`."""
    return call_step("train_sicsrec", config, refs, run)
