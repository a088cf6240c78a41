"""The one training loop of both steps of stage 2: epochs, validation, early stop, best weights.

Everything random is drawn from the seed and the number of the epoch, and a checkpoint within an
epoch holds the state of the generators, so a run that was killed goes on from its last checkpoint
with the same data order and the same dropout as an undisturbed one; on the CPU to the same bits.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sicsrec.config.encoders import Precision
from sicsrec.data.packing import training_batches
from sicsrec.data.sequences import Histories
from sicsrec.encoders.precision import computing_in
from sicsrec.errors import DataError, TrainingDivergedError
from sicsrec.models.base import SequenceModel, TokenBatch
from sicsrec.models.peers import ALONE, Peers
from sicsrec.progress import Progress
from sicsrec.tracking import Tracker
from sicsrec.training.checkpoint import (
    CHECKPOINT,
    Checkpoint,
    FitState,
    check_same_start,
    copy_weights,
)
from sicsrec.training.process_group import shared_loss
from sicsrec.training.repeatable import repeatable

logger = logging.getLogger(__name__)


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
    precision: Precision = "float32"
    """What losses are computed in."""


Validate = Callable[[SequenceModel], dict[str, float]]
"""Returns validation metrics by name."""

BATCHES_READ_AT_ONCE = 16
"""Batches on a GPU after which their losses are looked at."""
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
    peers: Peers = ALONE,
) -> FitState:
    """Train ``model`` in place and leave it with the weights of its best epoch.

    Note:
        Content vectors of items that the histories never read stay as they were given. All the
        gradient they get is that of λ‖table‖, however small, and Adam, which divides it by its own
        size, takes steps of the whole learning rate with it: they would soon be 0, and all alike.
        So it is with item embeddings that started at content. Validation sees such rows as they
        will be kept.

    Args:
        model: as it was made, on its device; parameters that need no gradient stay as they are.
        train: training histories; those of one item have no target and are passed over.
        validate: called after every epoch; None: every epoch counts as the best so far, so all
            ``max_epochs`` are trained and the last weights stay.
        settings: learning rate, batches, stopping.
        work: folder of the checkpoint; an unfinished one found there is continued.
        tracker: receives losses and metrics with the epoch as x axis, also of the epochs that an
            earlier process finished.
        progress: receives the number of finished epochs.
        peers: who trains the same model; all call this with the same arguments. The batches are
            those of one process, shared by rows. The first process has the dropout it would have
            alone, the others masks of their own.

    Returns:
        The state at the end: best epoch, its validation value, and the log of all epochs.

    Raises:
        DataError: if no history has two items.
        TrainingDivergedError: if a loss is not finite.
        TrainingProcessError: if peers do not find the same checkpoint.
    """
    if not (train.lengths > 1).any():
        raise DataError(
            "no training history has two items, so there is nothing to predict; give users with "
            "longer histories: split.strategy leave_one_out holds the last two of three or more "
            "items out"
        )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=settings.learning_rate, fused=True)
    model.peers = peers
    untaught = _rows_as_they_are(model.unread_rows(train))
    checkpoint = Checkpoint(work / CHECKPOINT, model, optimiser)
    state = checkpoint.resume()
    check_same_start(state, peers, work / CHECKPOINT)
    loss = shared_loss(model, peers)
    for record in state.log:
        _record(tracker, record)
    with (
        repeatable([model.device]),
        progress.stage(epochs_of(model, is_refit=validate is None), settings.max_epochs) as advance,
    ):
        advance(state.epoch)
        while state.epoch < settings.max_epochs and state.epochs_without_gain < settings.patience:
            losses = _train_epoch(model, loss, train, optimiser, settings, state, checkpoint)
            with _as_kept(untaught):
                metrics = validate(model) if validate else {}
            value = metrics.get(settings.selection_metric, state.best_value)
            state.epoch, state.batch, state.sums = state.epoch + 1, 0, {}
            if validate is None or value > state.best_value:
                state.best_epoch, state.best_value = state.epoch, value
                checkpoint.best_weights = copy_weights(model)
            part = "train" if validate else REFIT
            state.log.append(_describe_epoch(state.epoch, part, losses, metrics))
            _record(tracker, state.log[-1])
            checkpoint.save(state)
            found = f"loss {losses['loss']:.4f}"
            if validate:
                found = f"{settings.selection_metric} {value:.4f}, best {state.best_value:.4f}"
            advance(1, found)
    model.load_state_dict(checkpoint.best_weights, strict=True)
    _put(untaught)
    logger.info(
        "%s: epoch %d of %d kept, %s", model.kind, state.best_epoch, state.epoch,
        f"{settings.selection_metric} {state.best_value:.4f}" if validate else "no validation",
    )  # fmt: skip
    return state


_Rows = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
"""Tables, some of their rows as a mask, and what these hold."""


def _rows_as_they_are(places: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> _Rows:
    return [(table, rows, table.detach()[rows].clone()) for table, rows in places]


@torch.no_grad()
def _put(values: _Rows) -> None:
    for table, rows, vectors in values:
        table[rows] = vectors


@contextmanager
def _as_kept(untaught: _Rows) -> Iterator[None]:
    """Let a model be judged as it will be kept, and train on as it was."""
    trained = _rows_as_they_are((table, rows) for table, rows, _ in untaught)
    _put(untaught)
    try:
        yield
    finally:
        _put(trained)


def epochs_of(model: SequenceModel, *, is_refit: bool) -> str:
    """Return what the stage is called that counts the epochs of a fit."""
    return f"{'refit epochs' if is_refit else 'epochs'} of {model.kind}"


def _describe_epoch(
    epoch: int, part: str, losses: dict[str, float], metrics: dict[str, float]
) -> dict[str, float]:
    """Return an entry of :attr:`FitState.log`; losses go by the part of the log they are of."""
    return {
        "epoch": float(epoch),
        **{f"{part}/{name}": value for name, value in losses.items()},
        **{f"valid/{name}": value for name, value in metrics.items()},
    }


def _record(tracker: Tracker, record: dict[str, float]) -> None:
    metrics = {name: value for name, value in record.items() if name != "epoch"}
    tracker.log_metrics(metrics, step=int(record["epoch"]))


def _train_epoch(
    model: SequenceModel,
    loss: Callable[[TokenBatch], dict[str, torch.Tensor]],
    train: Histories,
    optimiser: torch.optim.Optimizer,
    settings: FitSettings,
    state: FitState,
    checkpoint: Checkpoint,
) -> dict[str, float]:
    """Run what is left of an epoch and return the mean of every loss over all its batches."""
    epoch, peers = state.epoch + 1, model.peers
    rng = np.random.default_rng([settings.seed, epoch])
    torch.manual_seed(int(rng.integers(2**31)))
    if peers.rank:
        own_rng = np.random.default_rng([settings.seed, epoch, peers.rank])
        torch.manual_seed(int(own_rng.integers(2**31)))
    if state.batch:
        checkpoint.restore_random()
    model.train()
    batches = training_batches(
        train, model.max_history_length, settings.batch_targets, rng, start=state.batch
    )
    n_at_once = _batches_read_at_once(model.device)
    unread: list[dict[str, torch.Tensor]] = []
    for packed in batches:
        share = packed.share(peers.rank, peers.size)
        with computing_in(settings.precision, model.device):
            parts = loss(TokenBatch.from_packed(share, model.device))
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(parts["loss"])
        optimiser.step()
        unread.append({name: value.detach() for name, value in parts.items()})
        if len(unread) == n_at_once:
            is_due = _read(unread, model, state, is_due=checkpoint.is_due)
            unread = []
            if is_due:
                checkpoint.save(state)
    if unread:
        _read(unread, model, state, is_due=False)
    return {name: total / state.batch for name, total in state.sums.items()}


def _batches_read_at_once(device: torch.device) -> int:
    """Return after how many batches losses are read.

    Whoever reads one waits until a GPU has computed it, and asks nothing of it in the meantime.
    """
    return 1 if device.type == "cpu" else BATCHES_READ_AT_ONCE


def _read(
    losses: list[dict[str, torch.Tensor]], model: SequenceModel, state: FitState, *, is_due: bool
) -> bool:
    """Add the losses of whole batches to the state; return if any process wants a checkpoint.

    Raises:
        TrainingDivergedError: if a loss is not finite.
    """
    peers = model.peers
    wanted = losses[0]["loss"].new_tensor(float(is_due))
    rows = torch.stack([torch.stack([*parts.values(), wanted]) for parts in losses])
    means = peers.average(rows).tolist()
    for parts, row in zip(losses, means, strict=True):
        values = dict(zip(parts, row[:-1], strict=True))
        if not np.isfinite(values["loss"]):
            found = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise TrainingDivergedError(
                f"{model.kind}: the loss is not finite in epoch {state.epoch + 1} ({found}); lower "
                "learning_rate or raise temperature"
            )
        for name, value in values.items():
            state.sums[name] = state.sums.get(name, 0.0) + value
        state.batch += 1
    return means[-1][-1] > 0.0
