"""The one training loop of both steps of stage 2: epochs, validation, early stop, best weights.

Everything random is drawn from the seed and the number of the epoch, so a run that was killed goes
on from its last checkpoint with the same data order and the same dropout as an undisturbed one.
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from sicsrec.data.packing import training_batches
from sicsrec.data.sequences import Histories
from sicsrec.errors import DataError, TrainingDivergedError
from sicsrec.models.base import SequenceModel, TokenBatch
from sicsrec.progress import Progress
from sicsrec.tracking import Tracker

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class FitSettings:
    """How a sequence model is trained."""

    learning_rate: float
    batch_targets: int
    """Training targets in a batch, about."""
    max_epochs: int
    patience: int
    """Stop after so many validations without improvement."""
    selection_metric: str
    """Name of the validation metric that picks the best epoch; larger is better."""
    seed: int


@dataclass
class FitState:
    """How far training is; what a checkpoint holds beside weights and optimiser."""

    epoch: int = 0
    """Finished epochs."""
    best_epoch: int = 0
    """The epoch whose weights are kept."""
    best_value: float = -1.0
    log: list[dict[str, float]] = field(default_factory=list)
    """Per epoch: ``epoch``, mean losses as ``train/<name>``, metrics as ``valid/<name>``."""

    @property
    def epochs_without_gain(self) -> int:
        """Validations since the best one."""
        return self.epoch - self.best_epoch


Validate = Callable[[SequenceModel], dict[str, float]]
"""Returns validation metrics by name."""

REFIT = "refit"
"""What the losses of a fit without validation are logged under, in place of ``train``."""


def fit(
    model: SequenceModel,
    train: Histories,
    validate: Validate | None,
    settings: FitSettings,
    *,
    work: Path,
    tracker: Tracker,
    progress: Progress,
) -> FitState:
    """Train ``model`` in place and leave it with the weights of its best epoch.

    Args:
        model: on its device; parameters that need no gradient stay as they are.
        train: training histories; those of one item have no target and are passed over.
        validate: called after every epoch; None: every epoch counts as the best so far, so all
            ``max_epochs`` are trained and the last weights stay.
        settings: learning rate, batches, stopping.
        work: folder of the checkpoint; an unfinished one found there is continued.
        tracker: receives losses and metrics with the epoch as x axis.
        progress: receives the number of finished epochs.

    Returns:
        The state at the end: best epoch, its validation value, and the log of all epochs.

    Raises:
        DataError: if no history has two items.
        TrainingDivergedError: if a loss is not finite.
    """
    if not (train.lengths > 1).any():
        raise DataError("no training history has two items, so there is nothing to predict")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=settings.learning_rate, fused=True)
    path = work / CHECKPOINT
    state, best_weights = _resume(path, model, optimiser)
    with progress.stage(f"train {model.kind}", settings.max_epochs) as advance:
        advance(state.epoch)
        while state.epoch < settings.max_epochs and state.epochs_without_gain < settings.patience:
            epoch = state.epoch + 1
            losses = _train_epoch(model, train, optimiser, settings, epoch)
            metrics = validate(model) if validate else {}
            value = metrics.get(settings.selection_metric, state.best_value)
            if validate is None or value > state.best_value:
                state.best_epoch, state.best_value = epoch, value
                best_weights = _copy_weights(model)
            state.epoch = epoch
            part = "train" if validate else REFIT
            record = {f"{part}/{name}": value for name, value in losses.items()}
            record |= {f"valid/{name}": value for name, value in metrics.items()}
            state.log.append({"epoch": float(epoch)} | record)
            tracker.log_metrics(record, step=epoch)
            _save_checkpoint(path, model, optimiser, state, best_weights)
            found = f"loss {losses['loss']:.4f}"
            if validate:
                found = f"{settings.selection_metric} {value:.4f}, best {state.best_value:.4f}"
            advance(1, found)
    model.load_state_dict(best_weights, strict=True)
    logger.info(
        "%s: epoch %d of %d kept, %s", model.kind, state.best_epoch, state.epoch,
        f"{settings.selection_metric} {state.best_value:.4f}" if validate else "no validation",
    )  # fmt: skip
    return state


def _train_epoch(
    model: SequenceModel,
    train: Histories,
    optimiser: torch.optim.Optimizer,
    settings: FitSettings,
    epoch: int,
) -> dict[str, float]:
    """Run one epoch and return the mean of every part of the loss over its batches."""
    rng = np.random.default_rng([settings.seed, epoch])
    torch.manual_seed(int(rng.integers(2**31)))
    model.train()
    sums: dict[str, float] = defaultdict(float)
    n_batches = 0
    for packed in training_batches(train, model.max_history_length, settings.batch_targets, rng):
        parts = model.loss(TokenBatch.from_packed(packed, model.device))
        if not torch.isfinite(parts["loss"]):
            found = ", ".join(f"{name} {part.item():g}" for name, part in parts.items())
            raise TrainingDivergedError(
                f"{model.kind}: the loss is not finite in epoch {epoch} ({found}); lower "
                "learning_rate or raise temperature"
            )
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(parts["loss"])
        optimiser.step()
        for name, part in parts.items():
            sums[name] += part.item()
        n_batches += 1
    return {name: total / n_batches for name, total in sums.items()}


def _copy_weights(model: SequenceModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _save_checkpoint(
    path: Path,
    model: SequenceModel,
    optimiser: torch.optim.Optimizer,
    state: FitState,
    best_weights: dict[str, torch.Tensor],
) -> None:
    """Replace the checkpoint in one rename, so that a kill leaves the old or the new one."""
    content = {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "state": asdict(state),
        "best": best_weights,
    }
    written = path.with_suffix(".tmp")
    torch.save(content, written)
    written.replace(path)


def _resume(
    path: Path, model: SequenceModel, optimiser: torch.optim.Optimizer
) -> tuple[FitState, dict[str, torch.Tensor]]:
    """Load the checkpoint of a killed run, or start from nothing."""
    if not path.exists():
        return FitState(), _copy_weights(model)
    content = torch.load(path, map_location=model.device, weights_only=True)
    model.load_state_dict(content["model"], strict=True)
    optimiser.load_state_dict(content["optimiser"])
    state = FitState(**content["state"])
    logger.info("%s: continuing after epoch %d of a run that was cut off", model.kind, state.epoch)
    return state, content["best"]
