"""Step ``pretrain_id``: item embeddings and ID encoder alone, by next-item cross entropy."""

import torch

from sicsrec.models.id_encoder import IdEncoder
from sicsrec.steps.context import StepContext, StepReport
from sicsrec.steps.stage_two import (
    StageTwoData,
    fit_and_save,
    refit_and_save,
    transformer_settings,
)


def run(context: StepContext) -> StepReport:
    """Train the ID encoder; writes the output ``model`` and, where it is asked for, ``refit``."""
    section = context.config.pretrain_id
    stage = StageTwoData.read(context)
    report = fit_and_save(context, _build(context, stage), section, stage)
    if context.config.refit:
        refit_and_save(context, _build(context, stage), section, stage, report)
    return report


def _build(context: StepContext, stage: StageTwoData) -> IdEncoder:
    """Build an untrained ID encoder, the same each time."""
    settings = transformer_settings(context.config.pretrain_id, stage.catalog.n_items)
    torch.manual_seed(context.seed)
    return IdEncoder(**settings).to(context.device)
