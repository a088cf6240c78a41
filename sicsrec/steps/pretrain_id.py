"""Step ``pretrain_id``: item embeddings and ID encoder alone, by next-item cross entropy."""

import torch

from sicsrec.models.id_encoder import IdEncoder
from sicsrec.steps.context import StepContext, StepReport
from sicsrec.steps.stage_two import StageTwoData, fit_and_save, refit_and_save


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
    section = context.config.pretrain_id
    torch.manual_seed(context.seed)
    return IdEncoder(
        n_items=stage.catalog.n_items,
        width=section.width,
        inner_width=section.inner_width,
        n_layers=section.n_layers,
        n_heads=section.n_heads,
        dropout=section.dropout,
        max_history_length=section.max_history_length,
        positions=section.positions,
    ).to(context.device)
