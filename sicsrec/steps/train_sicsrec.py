"""Step ``train_sicsrec``: content encoder, mix decoder and low-rank adapters on top of step 1."""

from pathlib import Path

import torch

from sicsrec.config import TrainSicsrecConfig
from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.vectors import MODALITIES, ItemVectors, read_vectors
from sicsrec.errors import ArtifactError
from sicsrec.models.id_encoder import IdEncoder
from sicsrec.models.sicsrec import SICSRec
from sicsrec.models.storage import load_model
from sicsrec.steps.context import StepContext, StepReport
from sicsrec.steps.stage_two import StageTwoData, fit_and_save


def run(context: StepContext) -> StepReport:
    """Train SICSRec; writes the output ``model``."""
    section = context.config.train_sicsrec
    stage = StageTwoData.read(context)
    vectors = read_all_vectors(context.input("encode_items/vectors").path(), stage.catalog)
    pretrained = load_model(context.input("pretrain_id/model").path())
    if not isinstance(pretrained, IdEncoder):
        raise ArtifactError(f"pretrain_id left a model of kind {pretrained.kind!r}")
    torch.manual_seed(context.seed)
    model = build_sicsrec(section, stage.catalog.n_items, vectors, pretrained)
    report = fit_and_save(context, model.to(context.device), section, stage)
    missing = {entry.modality: int((~entry.present).sum()) for entry in vectors}
    report.content["items_without_modality"] = missing
    return report


def read_all_vectors(folder: Path, catalog: ItemCatalog) -> list[ItemVectors]:
    """Read the vectors of every modality that ``encode_items`` wrote.

    Raises:
        ArtifactError: if there is none.
    """
    found = [read_vectors(folder, modality, catalog) for modality in MODALITIES]
    vectors = [entry for entry in found if entry is not None]
    if not vectors:
        raise ArtifactError(f"{folder} holds no vectors of any modality ({', '.join(MODALITIES)})")
    return vectors


def build_sicsrec(
    section: TrainSicsrecConfig, n_items: int, vectors: list[ItemVectors], pretrained: IdEncoder
) -> SICSRec:
    """Build the model of step 2, filled with the encoders' vectors and the weights of step 1."""
    model = SICSRec(
        n_items=n_items,
        width=section.width,
        inner_width=section.inner_width,
        n_layers=section.n_layers,
        n_heads=section.n_heads,
        dropout=section.dropout,
        max_history_length=section.max_history_length,
        vector_widths={entry.modality: entry.matrix.shape[1] for entry in vectors},
        fusion_dropout=section.fusion_dropout,
        adapter_rank=section.adapter_rank,
        alpha=section.alpha,
        temperature=section.temperature,
        table_penalty=section.table_penalty,
        item_dropout=section.item_dropout,
        scoring=section.scoring,
    )
    model.load_id_encoder(pretrained)
    for entry in vectors:
        model.content_embedding.load_vectors(
            entry.modality, torch.from_numpy(entry.matrix), torch.from_numpy(entry.present)
        )
    return model
