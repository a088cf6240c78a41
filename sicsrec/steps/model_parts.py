"""What a logged model holds beside the exported folder, made of committed outputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from sicsrec.artifacts import ArtifactRef, ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.evaluation.promotion import validation_ranks
from sicsrec.recommender import ITEMS_FILE
from sicsrec.recommender.service import write_histories
from sicsrec.steps.evaluate import SICSREC, SICSREC_BLENDED

_EXAMPLE_ITEMS = 3


@dataclass(frozen=True)
class ModelParts:
    """Files to log, and a request that the model can answer."""

    folder: Path
    histories: Path
    validation: Path
    example: dict[str, Any]
    parameters: dict[str, Any]
    """What a request is answered with that does not say: as the export was made."""


def make_model_parts(
    store: ArtifactStore, refs: Mapping[str, ArtifactRef], config: PipelineConfig, work: Path
) -> ModelParts:
    """Write histories and validation ranks into ``work``.

    Args:
        store: where the outputs lie.
        refs: references of the export and of what it was evaluated by.
        config: says what ranks.
        work: an empty folder.

    Raises:
        ArtifactError: if an output is missing.
        DataError: if nothing was validated.
    """
    folder = store.open(refs["export/model"]).path()
    item_ids = (
        pl.read_parquet(folder / ITEMS_FILE, glob=False).sort("item_index")["item_id"].to_list()
    )
    log = store.open(refs["ingest/interactions"]).path("interactions.parquet")
    write_histories(pl.scan_parquet(log, glob=False), item_ids, work / "histories.parquet")
    per_user = pl.read_parquet(
        store.open(refs["evaluate/per_user"]).path("per_user.parquet"), glob=False
    )
    ranking = SICSREC_BLENDED if config.export.score == "blend" else SICSREC
    ranks = validation_ranks(
        per_user, ranking, remove_seen=config.evaluate.remove_seen, n_items=len(item_ids)
    )
    ranks.write_parquet(work / "validation.parquet")
    return ModelParts(
        folder,
        work / "histories.parquet",
        work / "validation.parquet",
        {"history": item_ids[:_EXAMPLE_ITEMS]},
        {"k": 10, "remove_seen": config.export.remove_seen},
    )
