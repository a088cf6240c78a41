"""Step ``pretrain_id``: item embeddings and ID encoder alone, by next-item cross entropy."""

import logging

import numpy as np
import torch

from sicsrec.config import ContentStartConfig
from sicsrec.models.id_encoder import IdEncoder
from sicsrec.models.item_start import ContentStart, content_start
from sicsrec.steps.context import StepContext, StepReport
from sicsrec.steps.item_vectors import choose_vectors, read_all_vectors
from sicsrec.steps.stage_two import (
    StageTwoData,
    fit_and_save,
    refit_and_save,
    transformer_settings,
)

logger = logging.getLogger(__name__)

_ITEM_START = 0
"""Sets its random numbers apart from those of the epochs, which count from 1."""


def run(context: StepContext) -> StepReport:
    """Train the ID encoder; writes the output ``model`` and, where it is asked for, ``refit``."""
    section = context.config.pretrain_id
    stage = StageTwoData.read(context)
    start = _read_content_start(context, stage)
    report = fit_and_save(context, _build(context, stage, start), section, stage)
    if context.config.refit:
        refit_and_save(context, _build(context, stage, start), section, stage, report)
    if start is not None:
        report.content["item_start"] = {
            "components": start.n_components,
            "explained_share": start.explained_share,
            "items_without_content": int((~start.has_content).sum()),
        }
    return report


def _read_content_start(context: StepContext, stage: StageTwoData) -> ContentStart | None:
    """Return where item embeddings start, None if that is at random numbers."""
    section = context.config.pretrain_id
    how = section.item_start
    if not isinstance(how, ContentStartConfig):
        return None
    found = read_all_vectors(context.input("encode_items/vectors").path(), stage.catalog)
    start = content_start(
        choose_vectors(found, context.config.train_sicsrec.modalities, "train_sicsrec"),
        section.width,
        std=how.std,
        whitening=how.whitening,
        rng=np.random.default_rng([context.seed, _ITEM_START]),
    )
    logger.info(
        "item embeddings start at %d components of the items' vectors, %.0f %% of their variance; "
        "%d items without vectors start at random numbers",
        start.n_components, 100 * start.explained_share, (~start.has_content).sum(),
    )  # fmt: skip
    return start


def _build(context: StepContext, stage: StageTwoData, start: ContentStart | None) -> IdEncoder:
    """Build an untrained ID encoder, the same each time."""
    section = context.config.pretrain_id
    settings = transformer_settings(section, stage.catalog.n_items)
    torch.manual_seed(context.seed)
    model = IdEncoder(**settings, item_start=section.item_start.kind)
    if start is None:
        model.spread_items(section.item_start.std)
    else:
        model.start_items_at(
            torch.from_numpy(start.embeddings), torch.from_numpy(start.has_content)
        )
    return model.to(context.device)
