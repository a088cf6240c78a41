"""Training histories to positive and negative item pairs."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from sicsrec.config import PipelineConfig
from tasks._run import call_step, is_worth_a_retry
from tasks.outcome import Refs, StepOutcome
from tasks.record import RunRecord


@task(
    name="sample_pairs",
    task_run_name="sample_pairs {config.dataset}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[60, 300],
    retry_condition_fn=is_worth_a_retry,
)
def sample_pairs(config: PipelineConfig, refs: Refs, run: RunRecord) -> StepOutcome:
    """See :mod:`sicsrec.steps.sample_pairs`."""
    return call_step("sample_pairs", config, refs, run)
