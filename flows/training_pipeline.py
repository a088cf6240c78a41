"""Stage 2 and what follows: pretrain_id, train_sicsrec, evaluate, export."""

from flows.order import run_in_order
from sicsrec.config import PipelineConfig
from tasks.evaluate import evaluate
from tasks.export import export
from tasks.outcome import Refs, StepOutcome
from tasks.pretrain_id import pretrain_id
from tasks.record import RunRecord
from tasks.train_sicsrec import train_sicsrec


def training_pipeline(config: PipelineConfig, run: RunRecord, refs: Refs) -> list[StepOutcome]:
    """Run stage 2; the runner refuses to a step what it must not see."""
    return run_in_order((pretrain_id, train_sicsrec, evaluate, export), config, refs, run)
