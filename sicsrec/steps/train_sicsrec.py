"""Step ``train_sicsrec``: content encoder, mix decoder and low-rank adapters on top of step 1.

Beside the model it fits two blends (:mod:`sicsrec.models.blend`): ``blend/sicsrec`` weighs both
models, counts and content, ``blend/id_encoder`` the ID encoder and counts alone, so that a table
can tell what content adds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import polars as pl
import torch

from sicsrec.config import TrainSicsrecConfig
from sicsrec.data.sequences import Histories
from sicsrec.data.vectors import ItemVectors
from sicsrec.errors import ArtifactError
from sicsrec.models.blend import Blend, HistoryFacts
from sicsrec.models.blend_storage import save_blend
from sicsrec.models.content import ContentEmbedding
from sicsrec.models.id_encoder import IdEncoder
from sicsrec.models.sicsrec import SICSRec
from sicsrec.models.storage import load_model
from sicsrec.steps.context import StepContext, StepReport
from sicsrec.steps.item_vectors import choose_vectors, read_all_vectors
from sicsrec.steps.stage_two import (
    StageTwoData,
    fit_and_save,
    refit_and_save,
    transformer_settings,
)
from sicsrec.training.blending import BlendFit, fit_blend


def run(context: StepContext) -> StepReport:
    """Train SICSRec and fit the blends.

    Writes the outputs ``model`` and ``blend`` and, where they are asked for, ``refit`` and
    ``refit_blend``.
    """
    section = context.config.train_sicsrec
    stage = StageTwoData.read(context)
    folder = context.input("encode_items/vectors").path()
    vectors = choose_vectors(
        read_all_vectors(folder, stage.catalog), section.modalities, "train_sicsrec"
    )
    id_encoder, model = _build(context, "pretrain_id/model", stage, vectors)
    report = fit_and_save(context, model, section, stage)
    blends = make_blends(id_encoder, model, vectors, stage.train)
    fits = fit_blends(context, blends, stage)
    save_blends(blends, fits, context.output("blend"))
    report.content["blend"] = {kind: asdict(fit) for kind, fit in fits.items()}
    if context.config.refit:
        id_encoder, model = _build(context, "pretrain_id/refit", stage, vectors)
        refit_and_save(context, model, section, stage, report)
        # Validation targets are part of these counts, so the weights stay those fitted before.
        blends = make_blends(id_encoder, model, vectors, stage.train_and_valid)
        save_blends(blends, fits, context.output("refit_blend"))
    missing = {entry.modality: int((~entry.present).sum()) for entry in vectors}
    report.content["items_without_modality"] = missing
    return report


def _build(
    context: StepContext, pretrained: str, stage: StageTwoData, vectors: list[ItemVectors]
) -> tuple[IdEncoder, SICSRec]:
    """Return an ID encoder that step 1 left and an untrained SICSRec on top of it."""
    id_encoder = load_model(context.input(pretrained).path(), context.device)
    if not isinstance(id_encoder, IdEncoder):
        raise ArtifactError(f"{pretrained} is a model of kind {id_encoder.kind!r}")
    torch.manual_seed(context.seed)
    section = context.config.train_sicsrec
    model = build_sicsrec(section, stage.catalog.n_items, vectors, id_encoder)
    return id_encoder, model.to(context.device)


def make_blends(
    id_encoder: IdEncoder, model: SICSRec, vectors: list[ItemVectors], histories: Histories
) -> dict[str, Blend]:
    """Return blends without weights, one with and one without SICSRec and content.

    Args:
        id_encoder: trained on ``histories``.
        model: trained on ``histories``.
        vectors: of all modalities.
        histories: what is counted.
    """
    matrices = {entry.modality: entry.matrix for entry in vectors}
    facts = HistoryFacts.from_training(histories, model.n_items, matrices)
    return {
        model.kind: Blend([id_encoder, model], facts),
        id_encoder.kind: Blend([id_encoder], replace(facts, vectors={})),
    }


def fit_blends(
    context: StepContext, blends: Mapping[str, Blend], stage: StageTwoData
) -> dict[str, BlendFit]:
    """Fit the weights of every blend on the validation targets and record them."""
    fits = {}
    with context.progress.stage("fit blends", len(blends)) as advance:
        for kind, blend in blends.items():
            fits[kind] = fit_blend(blend, stage.valid, context.seed)
            advance(1, kind)
    weights = [
        {"blend": kind, "feature": feature, "weight": weight}
        for kind, fit in fits.items()
        for feature, weight in fit.weights.items()
    ]
    context.tracker.log_table("blend_weights", pl.DataFrame(weights))
    return fits


def save_blends(blends: Mapping[str, Blend], fits: Mapping[str, BlendFit], folder: Path) -> None:
    """Write every blend with its fitted weights into a folder of its own."""
    for kind, blend in blends.items():
        own = folder / kind
        own.mkdir(parents=True)
        save_blend(Blend(blend.models, blend.facts, fits[kind].weights), own)


def widths_of(vectors: Sequence[ItemVectors]) -> dict[str, int]:
    """Return modality to the width of its vectors."""
    return {entry.modality: entry.matrix.shape[1] for entry in vectors}


def fill_content(content: ContentEmbedding, vectors: Sequence[ItemVectors]) -> None:
    """Start the tables of all modalities at the encoders' vectors."""
    for entry in vectors:
        content.load_vectors(entry.modality, entry.tensor, torch.from_numpy(entry.present))


def build_sicsrec(
    section: TrainSicsrecConfig, n_items: int, vectors: list[ItemVectors], pretrained: IdEncoder
) -> SICSRec:
    """Build the model of step 2, filled with the encoders' vectors and the weights of step 1.

    Trained in one step it keeps its random weights in place of those of step 1.
    """
    model = SICSRec(
        **transformer_settings(section, n_items),
        vector_widths=widths_of(vectors),
        fusion_dropout=section.fusion_dropout,
        adapter_rank=section.adapter_rank,
        alpha=section.alpha,
        temperature=section.temperature,
        table_penalty=section.table_penalty,
        item_dropout=section.item_dropout,
        scoring=section.scoring,
        two_step=section.two_step,
        item_scoring=section.item_scoring,
        content_weight=section.content_weight,
        item_start=pretrained.item_start if section.two_step else "random",
    )
    if section.two_step:
        model.load_id_encoder(pretrained)
    fill_content(model.content_embedding, vectors)
    return model
