"""Raw data to a catalogue and the parts of the log: ingest, split."""

from flows.order import run_in_order
from sicsrec.config import PipelineConfig
from tasks.ingest import ingest
from tasks.outcome import StepOutcome
from tasks.record import RunRecord
from tasks.split import split


def prepare_data(config: PipelineConfig, run: RunRecord) -> list[StepOutcome]:
    """Run ingest and split."""
    return run_in_order((ingest, split), config, {}, run)
