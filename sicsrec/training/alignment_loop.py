"""The training loop of alignment, which a killed run takes up where it was.

Everything random is drawn from the seed and the numbers of epoch, batch and chunk, so that a run
that goes on from a checkpoint sees the same order of pairs and the same dropout as one that was
never stopped.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sicsrec.config.encoders import AlignEncodersConfig
from sicsrec.data.vectors import MODALITIES
from sicsrec.errors import DataError, TrainingDivergedError
from sicsrec.progress import Progress
from sicsrec.replacing import replaced
from sicsrec.tracking import Tracker
from sicsrec.training.checkpoint import CHECKPOINT_SECONDS
from sicsrec.training.memory_bank import MemoryBank
from sicsrec.training.objective import Objective
from sicsrec.training.pair_batches import Batches
from sicsrec.training.tower import SeedChunk, Tower

logger = logging.getLogger(__name__)

CHECKPOINT = "alignment.pt"


@dataclass
class AlignmentState:
    """How far training is; what a checkpoint holds beside weights, optimiser and banks."""

    epoch: int = 0
    """Finished epochs."""
    batch: int = 0
    """Finished batches of the epoch after these."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sum of each term of the loss over these batches."""
    counts: dict[str, int] = field(default_factory=dict)
    """Number of these batches that had something to contrast for the term."""
    epochs: list[dict[str, float]] = field(default_factory=list)
    """Mean losses per finished epoch."""

    def add(self, losses: Mapping[str, float]) -> None:
        """Count a batch with the terms it had."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.batch += 1

    def finish_epoch(self) -> dict[str, float]:
        """Begin the next epoch; return the mean of each term over its batches, and their sum.

        A batch without pairs, or whose pairs have no negatives, says nothing of their term.
        """
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        losses = {"loss": math.fsum(means.values()), **means}
        self.epochs.append({name: round(value, 6) for name, value in losses.items()})
        self.epoch, self.batch, self.sums, self.counts = self.epoch + 1, 0, {}, {}
        return self.epochs[-1]


@dataclass(frozen=True)
class Learner:
    """Everything that training changes."""

    towers: Mapping[str, Tower]
    optimizer: torch.optim.Optimizer
    banks: Mapping[str, MemoryBank]

    @classmethod
    def make(
        cls, towers: Mapping[str, Tower], config: AlignEncodersConfig, rates: Mapping[str, float]
    ) -> "Learner":
        """Make optimiser and empty banks.

        Args:
            towers: by modality.
            config: rate of the adapters, weight decay, size of the banks.
            rates: learning rate of each encoder.
        """
        groups: list[dict[str, Any]] = []
        for modality, tower in towers.items():
            weights = list(tower.encoder.trained_parameters().values())
            if weights:
                groups.append({"params": weights, "lr": rates[modality]})
            adapter = list(tower.adapter.parameters())
            groups.append({"params": adapter, "lr": config.adapter_learning_rate})
        bank = config.memory_bank
        banks = {
            modality: MemoryBank(
                bank.size, bank.max_age_steps, tower.adapter.outer.out_features, tower.device
            )
            for modality, tower in towers.items()
        }
        optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
        return cls(towers, optimizer, banks)

    def state_dict(self) -> dict[str, Any]:
        """Return what differs from a learner that was just made."""
        return {
            "weights": self._moving_values(),
            "optimizer": self.optimizer.state_dict(),
            "banks": {modality: bank.state_dict() for modality, bank in self.banks.items()},
        }

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        """Take over the state of another learner made from the same encoders."""
        own = self._moving_values()
        if set(own) != set(content["weights"]):
            raise ValueError("it holds other weights than those that move")
        with torch.no_grad():
            for name, value in content["weights"].items():
                own[name].copy_(value)
        self.optimizer.load_state_dict(content["optimizer"])
        for modality, bank in self.banks.items():
            bank.load_state_dict(content["banks"][modality])

    def _moving_values(self) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for modality, tower in self.towers.items():
            modules: tuple[tuple[str, nn.Module], ...] = (
                ("encoder", tower.encoder),
                ("adapter", tower.adapter),
            )
            for part, module in modules:
                moving = [(n, p.detach()) for n, p in module.named_parameters() if p.requires_grad]
                # Some architectures keep running statistics, which move without a gradient.
                for name, value in (*moving, *module.named_buffers()):
                    values[f"{modality}_{part}.{name}"] = value
        return values


def fit_encoders(
    learner: Learner,
    objective: Objective,
    batches: Batches,
    config: AlignEncodersConfig,
    *,
    seed: int,
    work: Path,
    tracker: Tracker,
    progress: Progress,
) -> list[dict[str, float]]:
    """Train in place and return, of every epoch, the mean of each term of the loss and their sum.

    Args:
        learner: what is trained.
        objective: computes losses and gradients on the same towers.
        batches: gives the batches of an epoch.
        config: for how long.
        seed: of order and dropout.
        work: folder of the checkpoint; one found there is continued.
        tracker: receives losses per epoch.
        progress: shows how far it is.

    Raises:
        DataError: if no batch of an epoch has anything to contrast.
        TrainingDivergedError: if a loss is not finite.
    """
    path = work / CHECKPOINT
    state = _resume(path, learner)
    for number, epoch_losses in enumerate(state.epochs, start=1):
        _record(tracker, epoch_losses, number)
    saved = time.monotonic()
    total = config.n_epochs * batches.n_batches - state.epoch * batches.n_batches - state.batch
    with progress.stage("alignment", total) as advance:
        while state.epoch < config.n_epochs:
            epoch = state.epoch + 1
            for tower in learner.towers.values():
                tower.encoder.train()
            rng = np.random.default_rng([seed, epoch])
            for batch in batches.epoch(rng, start=state.batch):
                step = state.epoch * batches.n_batches + state.batch
                learner.optimizer.zero_grad(set_to_none=True)
                terms = objective.backward(batch, step, _seeds(seed, step))
                loss = _take_step(learner, state, terms)
                if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                    _save(path, learner, state)
                    saved = time.monotonic()
                advance(1, f"epoch {epoch}/{config.n_epochs}, loss {loss:.4f}")
            if not state.sums:
                raise nothing_to_align("no pair has a negative")
            losses = state.finish_epoch()
            _record(tracker, losses, epoch)
            logger.info("alignment epoch %d: %s", epoch, losses)
            _save(path, learner, state)
            saved = time.monotonic()
    return state.epochs


def _take_step(learner: Learner, state: AlignmentState, terms: Mapping[str, Tensor]) -> float:
    """Change the weights by the gradient and return the loss of the batch."""
    values = {name: float(term) for name, term in terms.items()}
    loss = math.fsum(values.values())
    if not math.isfinite(loss):
        raise TrainingDivergedError(
            f"align_encoders: the loss is not finite in epoch {state.epoch + 1} ({values}); lower "
            "learning_rate or raise temperature"
        )
    learner.optimizer.step()
    state.add(values)
    return loss


def nothing_to_align(why: str) -> DataError:
    """Return the error for encoders that nothing tells how to change."""
    return DataError(
        f"there is nothing to align on: {why}; take another sample_pairs.judge, for similarity a "
        "lower min_positive, or set align_encoders.trained to none"
    )


def _record(tracker: Tracker, losses: Mapping[str, float], epoch: int) -> None:
    tracker.log_metrics({f"train/{name}": value for name, value in losses.items()}, epoch)


def _seeds(seed: int, step: int) -> Callable[[str], SeedChunk]:
    def of_modality(modality: str) -> SeedChunk:
        def seed_chunk(number: int) -> None:
            entropy = [seed, step, MODALITIES.index(modality), number]
            torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))

        return seed_chunk

    return of_modality


def _save(path: Path, learner: Learner, state: AlignmentState) -> None:
    """Replace the checkpoint in one rename, so that a kill leaves the old or the new one."""
    with replaced(path) as file:
        torch.save({**learner.state_dict(), "state": asdict(state)}, file)


def _resume(path: Path, learner: Learner) -> AlignmentState:
    """Load the checkpoint of a killed run, or start from nothing."""
    if not path.exists():
        return AlignmentState()
    device = next(iter(learner.towers.values())).device
    content = torch.load(path, map_location=device, weights_only=True)
    learner.load_state_dict(content)
    state = AlignmentState(**content["state"])
    logger.info(
        "alignment: continuing after epoch %d and %d batches of a run that was cut off",
        state.epoch,
        state.batch,
    )
    return state
