"""Joint fine-tuning of text and image encoder (arXiv 2510.10556, content semantic alignment).

``L = L_t2t + L_v2v + L_t2v`` on the outputs of two-layer adapters. What one of the modalities
lacks, an image or the whole encoder, is left out of the terms that would need it.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sicsrec.config import AlignEncodersConfig
from sicsrec.encoders.adapters import LossAdapter
from sicsrec.encoders.base import ItemEncoder, Trained
from sicsrec.encoders.content import ItemContent
from sicsrec.encoders.losses import batch_negatives, cross_modal_contrast, pair_contrast
from sicsrec.errors import DataError, TrainingDivergedError
from sicsrec.progress import NoProgress, Progress
from sicsrec.tracking import NullTracker, Tracker
from sicsrec.training.alignment_quality import measure_quality
from sicsrec.training.item_inputs import tabulate_inputs
from sicsrec.training.pair_batches import Batch, Batches, Pairs
from sicsrec.training.tower import Tower

logger = logging.getLogger(__name__)

HELD_ASIDE_SHARE = 0.05
"""Share of the pairs that training never sees, to measure what it is good for."""

_PAIR_TERMS = {"text": "t2t", "image": "v2v"}


@dataclass(frozen=True)
class AlignmentResult:
    """What training gave."""

    adapters: dict[str, LossAdapter]
    trained_weights: tuple[str, ...]
    """Names of all weights that moved."""
    report: dict[str, Any] = field(default_factory=dict)


def align(
    encoders: Mapping[str, ItemEncoder],
    contents: Mapping[str, ItemContent],
    pairs: Pairs,
    config: AlignEncodersConfig,
    *,
    n_items: int,
    seed: int,
    work: Path,
    tracker: Tracker | None = None,
    progress: Progress | None = None,
) -> AlignmentResult:
    """Train encoders and adapters in place.

    Where no weight of any encoder may move, nothing is trained, adapters included: the vectors of
    frozen encoders do not depend on adapters.

    Args:
        encoders: by modality, text, image or both.
        contents: of the same modalities.
        pairs: from the training log.
        config: what moves, how far and for how long.
        n_items: size of the catalogue.
        seed: of adapters, pairs held aside, batches and dropout.
        work: folder for what is too large for memory.
        tracker: receives losses per epoch.
        progress: shows how far it is.

    Raises:
        DataError: if there is nothing to train on.
        TrainingDivergedError: if a loss is not finite.
    """
    progress, tracker = progress or NoProgress(), tracker or NullTracker()
    with _seeded(seed, encoders):
        towers = _make_towers(encoders, contents, config, n_items, work, progress)
        rng = np.random.default_rng(seed)
        kept, aside = pairs.hold_aside(HELD_ASIDE_SHARE, rng)
        both = _with_both(towers)
        batches = Batches(kept, _in_no_pair(both, kept), config.batch_size)
        before = measure_quality(towers, aside, both, seed)
        epochs: list[dict[str, float]] = []
        if any(tower.encoder.trained_parameters() for tower in towers.values()):
            if len(kept) == 0 and len(both) < 2:
                raise DataError(
                    "there is nothing to align on: no pair of items and no two items with text and "
                    "image; lower sample_pairs.judge.min_positive or set align_encoders.trained to "
                    "none"
                )
            epochs = _fit(towers, batches, config, rng, tracker, progress)
        after = measure_quality(towers, aside, both, seed) if epochs else before
    for tower in towers.values():
        tower.encoder.eval()
    report = {
        "trained": {modality: _trained_of(modality, config) for modality in towers},
        "trained_weights": {
            modality: len(tower.encoder.trained_parameters()) for modality, tower in towers.items()
        },
        "inputs_kept_in": {modality: tower.inputs.where for modality, tower in towers.items()},
        "pairs": {"trained_on": len(kept), "held_aside": len(aside)},
        "items_with_text_and_image": len(both),
        "epochs": epochs,
        "before": before,
        "after": after,
    }
    names = tuple(_trained_weights(towers)) if epochs else ()
    return AlignmentResult({name: tower.adapter for name, tower in towers.items()}, names, report)


def _make_towers(
    encoders: Mapping[str, ItemEncoder],
    contents: Mapping[str, ItemContent],
    config: AlignEncodersConfig,
    n_items: int,
    work: Path,
    progress: Progress,
) -> dict[str, Tower]:
    towers = {}
    for modality, encoder in encoders.items():
        content = contents[modality]
        if len(content.indices) == 0:
            raise DataError(
                f"align_encoders.{modality}_encoder is set but no item has a usable {modality}; "
                f"set it to null"
            )
        encoder.set_trained(_trained_of(modality, config))
        encoder.eval()
        inputs = tabulate_inputs(
            encoder, content, batch_size=config.batch_size, work=work, progress=progress
        )
        adapter = LossAdapter(encoder.dim, config.adapter_hidden_width, config.adapter_width)
        has_modality = np.zeros(n_items + 1, dtype=np.bool_)
        has_modality[content.indices] = True
        device = next(encoder.parameters()).device
        towers[modality] = Tower(encoder, adapter.to(device), inputs, has_modality)
    return towers


def _trained_of(modality: str, config: AlignEncodersConfig) -> Trained:
    return (config.image_trained if modality == "image" else None) or config.trained


def _rate_of(modality: str, config: AlignEncodersConfig) -> float:
    return (config.image_learning_rate if modality == "image" else None) or config.learning_rate


def _with_both(towers: Mapping[str, Tower]) -> NDArray[np.int32]:
    """Return the items that have text and image, none when there is one modality."""
    if len(towers) < 2:
        return np.zeros(0, dtype=np.int32)
    masks = [tower.has_modality for tower in towers.values()]
    return np.flatnonzero(np.logical_and.reduce(masks)).astype(np.int32)


def _in_no_pair(items: NDArray[np.int32], pairs: Pairs) -> NDArray[np.int32]:
    named = np.concatenate([pairs.anchors, pairs.positives])
    return items[~np.isin(items, named)]


def _trained_weights(towers: Mapping[str, Tower]) -> Iterator[str]:
    for modality, tower in towers.items():
        for name in tower.encoder.trained_parameters():
            yield f"{modality}_encoder.{name}"
        for name, _ in tower.adapter.named_parameters():
            yield f"{modality}_adapter.{name}"


def _make_optimizer(
    towers: Mapping[str, Tower], config: AlignEncodersConfig
) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = []
    for modality, tower in towers.items():
        weights = list(tower.encoder.trained_parameters().values())
        if weights:
            groups.append({"params": weights, "lr": _rate_of(modality, config)})
        adapter = list(tower.adapter.parameters())
        groups.append({"params": adapter, "lr": config.adapter_learning_rate})
    return torch.optim.AdamW(groups)


def batch_losses(
    towers: Mapping[str, Tower], batch: Batch, temperature: float
) -> dict[str, Tensor]:
    """Return the terms of the loss that the batch's modalities allow: t2t, v2v, t2v."""
    encoded = {name: tower.encode_present(batch.items) for name, tower in towers.items()}
    device = next(iter(encoded.values()))[0].device
    anchors, positives, own_negatives, known = (
        torch.from_numpy(array).to(device)
        for array in (batch.anchors, batch.positives, batch.own_negatives, batch.known_positives)
    )
    negatives = batch_negatives(anchors, positives, own_negatives, known)
    losses = {
        _PAIR_TERMS[name]: pair_contrast(
            vectors, anchors, positives, negatives, present, temperature
        )
        for name, (vectors, present) in encoded.items()
    }
    if len(encoded) == 2:
        (text, has_text), (image, has_image) = encoded["text"], encoded["image"]
        ids = torch.from_numpy(batch.items).to(device)
        losses["t2v"] = cross_modal_contrast(text, image, ids, has_text & has_image, temperature)
    return losses


def _fit(
    towers: Mapping[str, Tower],
    batches: Batches,
    config: AlignEncodersConfig,
    rng: np.random.Generator,
    tracker: Tracker,
    progress: Progress,
) -> list[dict[str, float]]:
    optimizer = _make_optimizer(towers, config)
    epochs = []
    with progress.stage("alignment", config.n_epochs * batches.n_batches) as advance:
        for epoch in range(1, config.n_epochs + 1):
            for tower in towers.values():
                tower.encoder.train()
            sums: dict[str, float] = {}
            for batch in batches.epoch(rng):
                losses = batch_losses(towers, batch, config.temperature)
                for name, value in _step(losses, optimizer, epoch).items():
                    sums[name] = sums.get(name, 0.0) + value
                advance(1, f"epoch {epoch}/{config.n_epochs}")
            means = {name: total / batches.n_batches for name, total in sums.items()}
            tracker.log_metrics({f"train/{name}": value for name, value in means.items()}, epoch)
            epochs.append({name: round(value, 6) for name, value in means.items()})
            logger.info("alignment epoch %d: %s", epoch, epochs[-1])
    return epochs


def _step(
    losses: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, epoch: int
) -> dict[str, float]:
    total = torch.stack(list(losses.values())).sum()
    values = {f"loss_{name}": float(loss.detach()) for name, loss in losses.items()}
    if not torch.isfinite(total):
        raise TrainingDivergedError(
            f"align_encoders: the loss is not finite in epoch {epoch} ({values}); lower "
            "learning_rate or raise temperature"
        )
    optimizer.zero_grad(set_to_none=True)
    # A batch whose every term is masked out has nothing to learn from.
    if total.requires_grad:
        torch.autograd.backward(total)
        optimizer.step()
    return {"loss": float(total.detach()), **values}


@contextmanager
def _seeded(seed: int, encoders: Mapping[str, ItemEncoder]) -> Iterator[None]:
    """Seed torch and, on the CPU, forbid operations that give other bits each time."""
    devices = {next(encoder.parameters()).device for encoder in encoders.values()}
    on_cpu = all(device.type == "cpu" for device in devices)
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[d for d in devices if d.type == "cuda"]):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(on_cpu or was_deterministic)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(was_deterministic)
