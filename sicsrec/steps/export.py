"""Step ``export``: recommendations, vectors, and a model folder that loads without the pipeline.

Whoever recommends today knows all that was watched so far, so users are read with their whole
history. Every user of the interactions gets recommendations; the log is held in memory, what is
written is not.
"""

import importlib.metadata
import json
import shutil
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from sicsrec.artifacts import ArtifactReader
from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.schema import INTERACTIONS, check_schema
from sicsrec.data.sequences import Histories
from sicsrec.errors import DataError
from sicsrec.evaluation.ranking import Scorer, recommend
from sicsrec.models.base import SequenceModel
from sicsrec.recommender import BLEND_FOLDER, CARD_FILE, ID_ENCODER_FOLDER, ITEMS_FILE, Recommender
from sicsrec.recommender.model import CHUNK_USERS
from sicsrec.recommender.tables import (
    RECOMMENDATIONS,
    recommendation_table,
    warn_of_users_without,
)
from sicsrec.steps.context import StepContext, StepReport
from sicsrec.steps.model_folder import write_encoders, write_items

_BLEND_FILES = {
    ID_ENCODER_FOLDER: "the model of step 1, whose scores the blend weighs too",
    BLEND_FOLDER: "weights, training counts and item vectors of the blend",
}


def run(context: StepContext) -> StepReport:
    """Write the outputs ``recommendations``, ``vectors`` and ``model``.

    Raises:
        DataError: if there are no interactions or one of an item that is not in the catalogue.
        TrainingDivergedError: if the model gives scores that are not finite.
    """
    catalog = ItemCatalog.read(context.input("ingest/catalog").path())
    interactions = pl.read_parquet(
        context.input("ingest/interactions").path("interactions.parquet"), glob=False
    )
    check_schema(interactions, INTERACTIONS, "interactions")
    histories = Histories.from_interactions(interactions, catalog)
    if not len(histories):
        raise DataError("ingest/interactions is empty, so there is nobody to recommend to")
    parts = _parts(context)
    _write_model_folder(context, parts, catalog)
    recommender = Recommender.load(context.output("model"), context.device)
    model = recommender.model
    counts = _write_recommendations(context, recommender.scorer, histories, catalog)
    warn_of_users_without(counts.users_without, len(histories), catalog.n_items)
    _write_item_vectors(context, model, catalog)
    _write_user_vectors(context, model, histories)
    section = context.config.export
    return StepReport(
        rows=counts.rows,
        rows_of="recommendations",
        content={
            "users": len(histories),
            "items": catalog.n_items,
            "top_k": section.top_k,
            "remove_seen": section.remove_seen,
            "score": section.score,
            "users_with_fewer_than_top_k": counts.users_with_fewer,
            "users_without_recommendations": counts.users_without,
            "vector_width": int(model.item_vectors().shape[1]),
        },
    )


@dataclass
class _Counts:
    """What the table of recommendations holds."""

    rows: int = 0
    users_with_fewer: int = 0
    """Users for whom fewer than top_k items were left, none included."""
    users_without: int = 0
    """Users for whom no item was left."""


def _write_recommendations(
    context: StepContext, scorer: Scorer, histories: Histories, catalog: ItemCatalog
) -> _Counts:
    section = context.config.export
    path = context.output("recommendations") / "recommendations.parquet"
    counts = _Counts()
    with (
        context.progress.stage("recommend", len(histories)) as advance,
        pq.ParquetWriter(path, RECOMMENDATIONS, compression="zstd") as writer,
    ):
        for chunk in histories.chunks(CHUNK_USERS):
            indices, scores = recommend(
                scorer, chunk, section.top_k, remove_seen=section.remove_seen, advance=advance
            )
            table = recommendation_table(chunk.user_ids, catalog.item_ids, indices, scores)
            writer.write_table(table.to_arrow().cast(RECOMMENDATIONS))
            n_left = (indices > 0).sum(axis=1)
            counts.rows += table.height
            counts.users_with_fewer += int((n_left < section.top_k).sum())
            counts.users_without += int((n_left == 0).sum())
    return counts


def _write_item_vectors(context: StepContext, model: SequenceModel, catalog: ItemCatalog) -> None:
    matrix = model.item_vectors().detach().float().cpu().numpy()
    catalog.frame.select("item_id", "item_index").with_columns(
        vector=pl.Series(matrix, dtype=pl.Array(pl.Float32, matrix.shape[1]))
    ).write_parquet(context.output("vectors") / "items.parquet")


def _write_user_vectors(context: StepContext, model: SequenceModel, histories: Histories) -> None:
    width = int(model.item_vectors().shape[1])
    schema = pa.schema([("user_id", pa.string()), ("vector", pa.list_(pa.float32(), width))])
    path = context.output("vectors") / "users.parquet"
    with (
        context.progress.stage("user vectors", len(histories)) as advance,
        pq.ParquetWriter(path, schema, compression="zstd") as writer,
    ):
        for chunk in histories.chunks(CHUNK_USERS):
            matrix = model.user_vectors(chunk).detach().float().cpu().numpy()
            frame = pl.DataFrame(
                {
                    "user_id": chunk.user_ids,
                    "vector": pl.Series(matrix, dtype=pl.Array(pl.Float32, width)),
                }
            )
            writer.write_table(frame.to_arrow().cast(schema))
            advance(len(chunk))


@dataclass(frozen=True)
class _Parts:
    """What is exported: trained on train + valid where there is such a model."""

    model: ArtifactReader
    id_encoder: ArtifactReader
    blend: ArtifactReader


def _parts(context: StepContext) -> _Parts:
    output, blend = ("refit", "refit_blend") if context.config.refit else ("model", "blend")
    return _Parts(
        model=context.input(f"train_sicsrec/{output}"),
        id_encoder=context.input(f"pretrain_id/{output}"),
        blend=context.input(f"train_sicsrec/{blend}"),
    )


def _write_model_folder(context: StepContext, parts: _Parts, catalog: ItemCatalog) -> None:
    """Copy the trained model beside the item ids and a card.

    Nothing of the interactions goes in: the output is declared to have seen what the model has.
    """
    folder = context.output("model")
    shutil.copytree(parts.model.path(), folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
    if context.config.export.score == "blend":
        blended = {
            ID_ENCODER_FOLDER: parts.id_encoder.path(),
            BLEND_FOLDER: parts.blend.path("sicsrec"),
        }
        for name, part in blended.items():
            shutil.copytree(part, folder / name, copy_function=shutil.copyfile)
    write_items(catalog, folder)
    content = _model_card(context, parts.model, catalog)
    content["files"] |= write_encoders(context, folder)
    card = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / CARD_FILE).write_text(card + "\n", encoding="utf-8")


def _model_card(
    context: StepContext, trained: ArtifactReader, catalog: ItemCatalog
) -> dict[str, Any]:
    model = json.loads(trained.path("config.json").read_text(encoding="utf-8"))
    ref = trained.ref
    return {
        "what": "SICSRec, a sequential recommender that aligns item ids with item content",
        "source": "arXiv 2510.10556",
        "dataset": context.config.dataset,
        "n_items": catalog.n_items,
        "model": model,
        "training": context.config.train_sicsrec.model_dump(mode="json"),
        "trained_on": "train + valid" if context.config.refit else "train",
        "trained_as": {"artifact": ref.name, "key": ref.key, "digest": ref.digest},
        "parts_of_the_log_seen": list(ref.sees),
        "made_with": {"sicsrec": importlib.metadata.version("sicsrec")},
        "files": {
            "config.json": "kind and settings of the model",
            "model.safetensors": "weights",
            ITEMS_FILE: "item_id, item_index (1..N) and title of every item of the model",
        }
        | (_BLEND_FILES if context.config.export.score == "blend" else {}),
        "use": (
            "from sicsrec.recommender import Recommender; "
            "Recommender.load(FOLDER).recommend([ITEM_ID, ...], k=10)"
        ),
        "ranks_by": context.config.export.score,
        "limits": (
            "knows only the items it was trained with; a history of none of them is refused. "
            "Quality figures are in the report of the evaluate step of the same pipeline run."
        ),
    }
