"""What a killed training of a sequence model needs to go on: its state, weights and generators."""

import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from sicsrec.errors import TrainingProcessError
from sicsrec.models.base import SequenceModel
from sicsrec.models.peers import Peers
from sicsrec.replacing import replaced

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_SECONDS = 120.0
"""Least time between two checkpoints within an epoch; there is one after every epoch."""


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
    batch: int = 0
    """Finished batches of the epoch after the finished ones."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums of the losses of these batches."""
    seconds: float = field(default=0.0, compare=False)
    """What all this took, validation included, without what a kill made undone."""

    @property
    def epochs_without_gain(self) -> int:
        """Validations since the best one."""
        return self.epoch - self.best_epoch


def copy_weights(model: SequenceModel) -> dict[str, torch.Tensor]:
    """Return a copy of all weights and buffers, which training leaves alone."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


class Checkpoint:
    """All that a killed run needs to go on, in one file.

    Args:
        path: of the file.
        model: whose weights are kept.
        optimiser: whose moments are kept.
    """

    def __init__(self, path: Path, model: SequenceModel, optimiser: torch.optim.Optimizer) -> None:
        self._path = path
        self._model = model
        self._optimiser = optimiser
        self._started = self._saved = time.monotonic()
        self._random: dict[str, list[torch.Tensor]] = {}
        self.best_weights = copy_weights(model)
        """Weights of the best epoch so far."""

    @property
    def is_due(self) -> bool:
        """Whether the last one is old enough for another within an epoch."""
        return time.monotonic() - self._saved >= CHECKPOINT_SECONDS

    def save(self, state: FitState) -> None:
        """Replace the checkpoint in one rename, so that a kill leaves the old or the new one.

        All peers call this; the first of them writes.
        """
        state.seconds = time.monotonic() - self._started
        random = _collect_random_states(self._model)
        if self._model.peers.rank == 0:
            content = {
                "model": self._model.state_dict(),
                "optimiser": self._optimiser.state_dict(),
                "state": asdict(state),
                "best": self.best_weights,
                "random": random,
            }
            with replaced(self._path) as file:
                torch.save(content, file)
        self._saved = time.monotonic()

    def resume(self) -> FitState:
        """Load the checkpoint of a killed run, or start from nothing."""
        if not self._path.exists():
            return FitState()
        content = torch.load(self._path, map_location=self._model.device, weights_only=True)
        self._model.load_state_dict(content["model"], strict=True)
        self._optimiser.load_state_dict(content["optimiser"])
        self.best_weights = content["best"]
        self._random = content["random"]
        state = FitState(**content["state"])
        self._started -= state.seconds
        logger.info(
            "%s: continuing after epoch %d and %d batches",
            self._model.kind,
            state.epoch,
            state.batch,
        )
        return state

    def restore_random(self) -> None:
        """Let the generators go on where they were when the checkpoint was written.

        Where it was written by another number of processes, or on a device of another kind, they
        start the epoch's draws anew.
        """
        peers, on_gpu = self._model.peers, self._model.device.type == "cuda"
        if len(self._random["cpu"]) != peers.size or ("cuda" in self._random) != on_gpu:
            logger.warning("%s: continuing with other dropout", self._model.kind)
            return
        torch.set_rng_state(self._random["cpu"][peers.rank].cpu())
        if on_gpu:
            torch.cuda.set_rng_state(self._random["cuda"][peers.rank].cpu(), self._model.device)


def _collect_random_states(model: SequenceModel) -> dict[str, list[torch.Tensor]]:
    """Return the states of the generators of all peers, by rank."""
    states = {"cpu": model.peers.collect(torch.get_rng_state())}
    if model.device.type == "cuda":
        states["cuda"] = model.peers.collect(torch.cuda.get_rng_state(model.device))
    return states


def check_same_start(state: FitState, peers: Peers, path: Path) -> None:
    """Refuse to train from different places: the processes would wait for each other for ever.

    Raises:
        TrainingProcessError: naming the checkpoint.
    """
    own = torch.tensor([state.epoch, state.batch])
    if any(not torch.equal(other, own) for other in peers.collect(own)):
        raise TrainingProcessError(
            f"the training processes do not see the same {path}: a network disk may show a new "
            "file late; wait a minute and start the run again"
        )
