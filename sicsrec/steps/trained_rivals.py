"""Rivals of ``evaluate`` that are trained: on the same parts of the log, by the same loop.

They are trained inside the one step that opens the test targets, so what trains them is given a
context without that input: asking for it is an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from sicsrec.config import PretrainIdConfig, RivalName
from sicsrec.models.base import SequenceModel
from sicsrec.models.content_encoder import ContentEncoder, FrozenFeatures
from sicsrec.models.gru4rec import Gru4Rec
from sicsrec.models.id_encoder import IdEncoder
from sicsrec.steps.context import StepContext
from sicsrec.steps.item_vectors import choose_vectors, read_all_vectors
from sicsrec.steps.stage_two import (
    StageTwoData,
    fit_model,
    fit_report,
    transformer_settings,
)
from sicsrec.steps.train_sicsrec import fill_content, widths_of
from sicsrec.tracking import NullTracker, Tracker

NAMES: dict[RivalName, str] = {
    "id_encoder": "ID encoder, random start",
    "gru4rec": "GRU4Rec",
    "content_encoder": "content encoder",
    "frozen_features": "frozen features",
}
"""Names of the rivals in reports and tables, in their order."""


@dataclass(frozen=True)
class TrainedRivals:
    """What came of the training."""

    models: dict[str, SequenceModel]
    """Name in reports to the model with the weights of its best epoch, in evaluation mode."""
    reports: dict[str, Any]
    """Name in the configuration to what is said of the fit."""


def train_rivals(context: StepContext) -> TrainedRivals:
    """Train the rivals that ``evaluate.rivals`` names; a killed run goes on where it was."""
    without_test = {name: at for name, at in context.inputs.items() if name != "split/test"}
    context = replace(context, inputs=without_test)
    models: dict[str, SequenceModel] = {}
    reports: dict[str, Any] = {}
    if not context.config.evaluate.rivals:
        return TrainedRivals(models, reports)
    stage = StageTwoData.read(context)
    for rival, name in NAMES.items():
        if rival not in context.config.evaluate.rivals:
            continue
        section = context.config.rival_settings(rival)
        torch.manual_seed(context.seed)
        model = _build(context, rival, section, stage).to(context.device)
        work = context.work / rival
        work.mkdir(parents=True, exist_ok=True)
        tracker = _Epochs(context.tracker, f"rivals/{rival}/epochs/")
        state = fit_model(context, model, section, stage, work=work, tracker=tracker)
        models[name], reports[rival] = model.eval(), fit_report(state, model)
    return TrainedRivals(models, reports)


def _build(
    context: StepContext, rival: RivalName, section: PretrainIdConfig, stage: StageTwoData
) -> SequenceModel:
    n_items = stage.catalog.n_items
    if rival == "id_encoder":
        return IdEncoder(**transformer_settings(section, n_items))
    if rival == "gru4rec":
        return Gru4Rec(
            n_items=n_items,
            width=section.width,
            n_layers=section.n_layers,
            dropout=section.dropout,
            max_history_length=section.max_history_length,
        )
    found = read_all_vectors(context.input("encode_items/vectors").path(), stage.catalog)
    modalities = getattr(context.config.evaluate, rival).modalities
    vectors = choose_vectors(found, modalities, reader=f"evaluate.{rival}")
    kind = ContentEncoder if rival == "content_encoder" else FrozenFeatures
    settings = transformer_settings(section, n_items)
    model = kind(**settings, vector_widths=widths_of(vectors))
    fill_content(model.content_embedding, vectors)
    return model


class _Epochs(NullTracker):
    """Records the metrics of a fit under a prefix, apart from those of the step and of others."""

    def __init__(self, tracker: Tracker, prefix: str) -> None:
        self._tracker = tracker
        self._prefix = prefix

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """See :meth:`sicsrec.tracking.Tracker.log_metrics`."""
        self._tracker.log_metrics({f"{self._prefix}{n}": v for n, v in metrics.items()}, step)
