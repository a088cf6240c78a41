"""Stage 1, items to vectors: sample_pairs, align_encoders, encode_items."""

from flows.order import run_in_order
from sicsrec.artifacts import ArtifactRef
from sicsrec.config import PipelineConfig
from tasks.align_encoders import align_encoders
from tasks.encode_items import encode_items
from tasks.outcome import StepOutcome
from tasks.record import RunRecord
from tasks.sample_pairs import sample_pairs


def feature_pipeline(
    config: PipelineConfig,
    run: RunRecord,
    *,
    catalog: ArtifactRef,
    covers: ArtifactRef,
    train: ArtifactRef | None,
) -> list[StepOutcome]:
    """Run stage 1 on items and training histories.

    There is no parameter through which held-out interactions could be passed (leak lock 2).

    Args:
        config: the whole configuration.
        run: what the run is about.
        catalog: ``ingest/catalog``.
        covers: ``ingest/covers``.
        train: ``split/train``; None when nothing that this run wants needs it.
    """
    refs = {ref.name: ref for ref in (catalog, covers, train) if ref is not None}
    return run_in_order((sample_pairs, align_encoders, encode_items), config, refs, run)
