"""What the two training steps of stage 2 have in common: data in, fit, model and report out.

A step trains twice: on the training histories, with validation to choose the epoch, and, with
``refit``, once more from the same start on train + valid for as many epochs. The first is what the
paper reports; the second knows the validation part of the log too, under ``leave_one_out`` all that
was watched but the test target, and is what one would deploy.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sicsrec.config import SequenceModelConfig
from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.sequences import Histories, item_counts
from sicsrec.data.split import TrainLog, ValidPart
from sicsrec.evaluation.ranking import RankingSet
from sicsrec.models.base import SequenceModel
from sicsrec.models.candidates import CandidateSampler
from sicsrec.models.storage import save_model
from sicsrec.steps.context import StepContext, StepReport
from sicsrec.tracking import Tracker
from sicsrec.training.checkpoint import FitState
from sicsrec.training.job import Job, Validation
from sicsrec.training.processes import fit_in_processes
from sicsrec.training.sequential import REFIT, FitSettings

VALID_CUTOFFS = (5, 10)


@dataclass(frozen=True)
class StageTwoData:
    """What both steps read."""

    catalog: ItemCatalog
    train: Histories
    valid: RankingSet
    valid_histories: Histories
    """All interactions of the validation part; only a refit is told them."""

    @cached_property
    def train_and_valid(self) -> Histories:
        """Training histories, each followed by what its user watched in the validation part."""
        return self.train.followed_by(self.valid_histories)

    @classmethod
    def read(cls, context: StepContext) -> "StageTwoData":
        """Read catalogue, training histories and validation targets of a step."""
        catalog = ItemCatalog.read(context.input("ingest/catalog").path())
        log = TrainLog.read(context.input("split/train").path())
        valid = ValidPart.read(context.input("split/valid").path())
        return cls(
            catalog,
            Histories.from_interactions(log.interactions, catalog),
            RankingSet.from_held_out(valid, catalog),
            Histories.from_interactions(valid.interactions, catalog),
        )


def transformer_settings(section: SequenceModelConfig, n_items: int) -> dict[str, Any]:
    """Return the keyword arguments that all models made of Transformers have in common.

    Args:
        section: how large the towers are.
        n_items: N.
    """
    shared = (
        "width", "inner_width", "n_layers", "n_heads", "dropout", "max_history_length", "positions",
    )  # fmt: skip
    return {"n_items": n_items, **{name: getattr(section, name) for name in shared}}


def fit_model(
    context: StepContext,
    model: SequenceModel,
    section: SequenceModelConfig,
    stage: StageTwoData,
    *,
    work: Path,
    tracker: Tracker,
) -> FitState:
    """Fit a model under a section's settings; it is left with the weights of its best epoch.

    Args:
        context: of the running step.
        model: on its device.
        section: how it is trained.
        stage: what it is trained on, and the validation targets that choose the epoch.
        work: folder of the checkpoint.
        tracker: receives losses and metrics.
    """
    settings = _fit_settings(section, context.seed)
    _compare_with_candidates(model, section, stage.train)

    validation = Validation(stage.valid, VALID_CUTOFFS, context.config.evaluate.remove_seen)
    return fit_in_processes(
        Job(model, stage.train, validation, settings),
        context.n_processes,
        work=work,
        tracker=tracker,
        progress=context.progress,
        hosts=context.hosts,
    )


def fit_and_save(
    context: StepContext, model: SequenceModel, section: SequenceModelConfig, stage: StageTwoData
) -> StepReport:
    """Fit a model under the step's settings, write it as output ``model``, and report."""
    state = fit_model(context, model, section, stage, work=context.work, tracker=context.tracker)
    save_model(model, context.output("model"))
    n_targets = int(np.maximum(stage.train.lengths - 1, 0).sum())
    return StepReport(
        rows=n_targets,
        rows_of="training targets",
        content={
            **fit_report(state, model),
            "processes": context.n_processes * (context.hosts.n_hosts if context.hosts else 1),
            "seconds_per_epoch": state.seconds / max(1, state.epoch),
            "log": state.log,
        },
    )


def refit_and_save(
    context: StepContext,
    model: SequenceModel,
    section: SequenceModelConfig,
    stage: StageTwoData,
    report: StepReport,
) -> None:
    """Fit an untrained model on train + valid, write it as output ``refit``, add to the report.

    Args:
        context: of the step.
        model: made as the one that validation was asked about was.
        section: configuration of the step.
        stage: data of the step.
        report: of the fit on the training histories; tells the number of epochs.
    """
    n_epochs = report.content["best_epoch"]
    histories = stage.train_and_valid
    settings = replace(_fit_settings(section, context.seed), max_epochs=n_epochs)
    _compare_with_candidates(model, section, histories)
    work = context.work / REFIT
    work.mkdir(exist_ok=True)
    state = fit_in_processes(
        Job(model, histories, None, settings),
        context.n_processes,
        work=work,
        tracker=context.tracker,
        progress=context.progress,
        hosts=context.hosts,
    )
    save_model(model, context.output("refit"))
    report.content["refit"] = {
        "epochs": n_epochs,
        "training_targets": int(np.maximum(histories.lengths - 1, 0).sum()),
        "log": state.log,
    }


def _fit_settings(section: SequenceModelConfig, seed: int) -> FitSettings:
    return FitSettings(
        learning_rate=section.learning_rate,
        batch_targets=section.batch_targets,
        max_epochs=section.max_epochs,
        patience=section.patience,
        selection_metric=section.selection_metric,
        seed=seed,
        precision="float32" if section.precision == "auto" else section.precision,
    )


def _compare_with_candidates(
    model: SequenceModel, section: SequenceModelConfig, histories: Histories
) -> None:
    """Train on sampled candidates where the catalogue is too large for all items."""
    if model.n_items > section.sampled_softmax_above:
        counts = target_counts(histories, model.n_items)
        model.candidates = CandidateSampler(section.n_sampled, counts)


def fit_report(state: FitState, model: SequenceModel) -> dict[str, Any]:
    """Return what a report says of a fit."""
    best = state.log[state.best_epoch - 1]
    return {
        "best_epoch": state.best_epoch,
        "epochs": state.epoch,
        "valid": {
            name.removeprefix("valid/"): value
            for name, value in best.items()
            if name.startswith("valid/")
        },
        "parameters": count_parameters(model, trainable_only=False),
        "trainable_parameters": count_parameters(model, trainable_only=True),
    }


def target_counts(train: Histories, n_items: int) -> Int[Tensor, " items"]:
    """Return how often each item is a training target; a history's first item never is."""
    firsts = train.items[train.offsets[:-1][train.lengths > 0]]
    counts = item_counts(train, n_items) - np.bincount(firsts, minlength=n_items + 1)[1:]
    return torch.from_numpy(counts)


def count_parameters(model: torch.nn.Module, *, trainable_only: bool) -> int:
    """Return the number of weights of a model."""
    return sum(
        parameter.numel()
        for parameter in model.parameters()
        if parameter.requires_grad or not trainable_only
    )
