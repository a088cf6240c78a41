"""Joint fine-tuning of text and image encoder (arXiv 2510.10556, content semantic alignment).

``L = L_t2t + L_v2v + L_t2v`` on the outputs of two-layer adapters. What one of the modalities
lacks, an image or the whole encoder, is left out of the terms that would need it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sicsrec.config.encoders import AlignEncodersConfig
from sicsrec.data.catalog import nothing_to_encode
from sicsrec.encoders.adapters import LossAdapter
from sicsrec.encoders.base import ItemEncoder, Trained
from sicsrec.encoders.content import ItemContent
from sicsrec.encoders.lora import add_lora, merge_lora
from sicsrec.progress import NoProgress, Progress
from sicsrec.tracking import NullTracker, Tracker
from sicsrec.training.alignment_loop import Learner, fit_encoders, nothing_to_align
from sicsrec.training.alignment_plots import place_modalities, plot_modalities
from sicsrec.training.alignment_quality import measure_quality
from sicsrec.training.item_inputs import ComputedInputs, ItemInputs, tabulate_inputs
from sicsrec.training.objective import Objective
from sicsrec.training.pair_batches import Batches, Pairs, share_of
from sicsrec.training.repeatable import repeatable
from sicsrec.training.tower import Tower


@dataclass(frozen=True)
class AlignmentResult:
    """What training gave."""

    adapters: dict[str, LossAdapter]
    trained_weights: tuple[str, ...]
    """Names of all weights that the optimiser was given; what no vector reads stays as it was."""
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Material:
    """What is trained on and what is asked about."""

    pairs: Pairs
    pairs_aside: Pairs
    both: NDArray[np.int32]
    """Items with text and image."""
    both_aside: NDArray[np.int32]
    """Those of them that the text-image term never sees."""

    @property
    def others(self) -> NDArray[np.int32]:
        """Items in no pair that the text-image term can learn from."""
        named = np.concatenate([self.pairs.anchors, self.pairs.positives, self.both_aside])
        return self.both[~np.isin(self.both, named)]


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
        seed: of adapters, what is held aside, batches and dropout.
        work: folder of checkpoint and caches; what a killed run left there is continued.
        tracker: receives losses per epoch and a picture.
        progress: shows how far it is.

    Raises:
        DataError: if there is nothing to train on.
        EncoderError: if an encoder cannot be trained as configured.
        TrainingDivergedError: if a loss is not finite.
    """
    progress, tracker = progress or NoProgress(), tracker or NullTracker()
    with _seeded(seed, encoders):
        towers = _make_towers(encoders, contents, config, n_items, work, progress)
        material = _hold_aside(pairs, _with_both(towers), config.held_aside_share, seed)
        before = measure_quality(
            towers, material.pairs_aside, material.both, material.both_aside, seed
        )
        moving = tuple(_moving_weights(towers))
        after, epochs = before, []
        places: dict[str, Any] = {}
        if any(tower.encoder.trained_parameters() for tower in towers.values()):
            _check_enough(material)
            epochs = _fit(towers, material, config, n_items, seed, work, tracker, progress)
            for modality, tower in towers.items():
                if _trained_of(modality, config) == "lora":
                    merge_lora(tower.encoder)
            after = measure_quality(
                towers, material.pairs_aside, material.both, material.both_aside, seed
            )
            if min(after.text.shape) > 1:
                tracker.log_figure("modalities", plot_modalities(before, after))
                places = {"before": place_modalities(before), "after": place_modalities(after)}
    for tower in towers.values():
        tower.encoder.eval()
    report = {
        **_describe(towers, material, config, moving),
        "epochs": epochs,
        "before": before.numbers,
        "after": after.numbers,
        "places": places,
    }
    adapters = {name: tower.adapter for name, tower in towers.items()}
    return AlignmentResult(adapters, moving if epochs else (), report)


def _describe(
    towers: Mapping[str, Tower],
    material: _Material,
    config: AlignEncodersConfig,
    moving: tuple[str, ...],
) -> dict[str, Any]:
    """Return what is trained, on how much, as JSON values."""
    return {
        "trained": {modality: _trained_of(modality, config) for modality in towers},
        "trained_weights": {
            modality: sum(name.startswith(f"{modality}_encoder.") for name in moving)
            for modality in towers
        },
        "inputs_kept_in": {modality: tower.inputs.where for modality, tower in towers.items()},
        "pairs": {"trained_on": len(material.pairs), "held_aside": len(material.pairs_aside)},
        "items_with_text_and_image": len(material.both),
        "items_held_aside": len(material.both_aside),
        "items_with_a_twin": {
            modality: _count_twins(tower.content_of, tower.has_modality)
            for modality, tower in towers.items()
        },
    }


def _make_towers(
    encoders: Mapping[str, ItemEncoder],
    contents: Mapping[str, ItemContent],
    config: AlignEncodersConfig,
    n_items: int,
    work: Path,
    progress: Progress,
) -> dict[str, Tower]:
    towers = {}
    is_trained = any(_trained_of(modality, config) != "none" for modality in encoders)
    for modality, encoder in encoders.items():
        content = contents[modality]
        if len(content.indices) == 0:
            raise nothing_to_encode(modality)
        trained = _trained_of(modality, config)
        if trained == "lora":
            add_lora(encoder, config.lora)
        encoder.set_trained(trained)
        encoder.eval()
        inputs = _make_inputs(encoder, content, config, work, progress, is_trained=is_trained)
        adapter = LossAdapter(encoder.dim, config.adapter_hidden_width, config.adapter_width)
        has_modality = np.zeros(n_items + 1, dtype=np.bool_)
        has_modality[content.indices] = True
        # Absent items are told apart by negative numbers: nobody shares what he does not have.
        content_of = -np.arange(n_items + 1, dtype=np.int64) - 1
        content_of[content.indices] = content.groups()
        device = next(encoder.parameters()).device
        towers[modality] = Tower(
            encoder, adapter.to(device), inputs, has_modality, content_of, config.items_at_a_time
        )
    return towers


def _make_inputs(
    encoder: ItemEncoder,
    content: ItemContent,
    config: AlignEncodersConfig,
    work: Path,
    progress: Progress,
    *,
    is_trained: bool,
) -> ItemInputs:
    if not is_trained:
        # Nothing but a sample is encoded then, to be measured, and that only once.
        return ComputedInputs(encoder, content, config.precision)
    return tabulate_inputs(
        encoder,
        content,
        batch_size=config.items_at_a_time,
        work=work,
        progress=progress,
        max_bytes=config.max_cache_bytes,
        dtype=config.cache_dtype,
        precision=config.precision,
    )


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


def _hold_aside(pairs: Pairs, both: NDArray[np.int32], share: float, seed: int) -> _Material:
    rng = np.random.default_rng(seed)
    kept, aside = pairs.hold_aside(share, rng)
    both_aside = np.sort(rng.permutation(both)[: share_of(len(both), share)])
    return _Material(kept, aside, both, both_aside)


def _check_enough(material: _Material) -> None:
    if len(material.pairs) == 0 and len(material.both) < 2:
        raise nothing_to_align("no pair of items and no two items with text and image")


def _moving_weights(towers: Mapping[str, Tower]) -> Iterator[str]:
    for modality, tower in towers.items():
        for name in tower.encoder.trained_parameters():
            yield f"{modality}_encoder.{name}"
        for name, _ in tower.adapter.named_parameters():
            yield f"{modality}_adapter.{name}"


def _fit(
    towers: Mapping[str, Tower],
    material: _Material,
    config: AlignEncodersConfig,
    n_items: int,
    seed: int,
    work: Path,
    tracker: Tracker,
    progress: Progress,
) -> list[dict[str, float]]:
    learner = Learner.make(towers, config, {name: _rate_of(name, config) for name in towers})
    takes_part = np.zeros(n_items + 1, dtype=np.bool_)
    takes_part[material.both] = True
    takes_part[material.both_aside] = False
    objective = Objective(
        towers,
        takes_part,
        config.temperature,
        learner.banks,
        gradient_cache=config.gradient_cache,
    )
    batches = Batches(material.pairs, material.others, config.batch_size)
    return fit_encoders(
        learner, objective, batches, config, seed=seed, work=work, tracker=tracker,
        progress=progress,
    )  # fmt: skip


def _count_twins(content_of: NDArray[np.int64], has_modality: NDArray[np.bool_]) -> int:
    _, counts = np.unique(content_of[has_modality], return_counts=True)
    return int(counts[counts > 1].sum())


@contextmanager
def _seeded(seed: int, encoders: Mapping[str, ItemEncoder]) -> Iterator[None]:
    """Seed torch and compute repeatably."""
    devices = {next(encoder.parameters()).device for encoder in encoders.values()}
    with torch.random.fork_rng(devices=[d for d in devices if d.type == "cuda"]):
        torch.manual_seed(seed)
        with repeatable(devices):
            yield
