"""Step ``pretrain_id``: item embeddings and ID encoder alone, by next-item cross entropy."""

import torch

from sicsrec.models.id_encoder import IdEncoder
from sicsrec.steps.context import StepContext, StepReport
from sicsrec.steps.stage_two import StageTwoData, fit_and_save


def run(context: StepContext) -> StepReport:
    """Train the ID encoder; writes the output ``model``."""
    section = context.config.pretrain_id
    stage = StageTwoData.read(context)
    torch.manual_seed(context.seed)
    model = IdEncoder(
        n_items=stage.catalog.n_items,
        width=section.width,
        inner_width=section.inner_width,
        n_layers=section.n_layers,
        n_heads=section.n_heads,
        dropout=section.dropout,
        max_history_length=section.max_history_length,
        positions=section.positions,
    ).to(context.device)
    return fit_and_save(context, model, section, stage)
