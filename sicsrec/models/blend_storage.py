"""A blend as a folder: ``blend.json`` holds the weights, ``blend.safetensors`` counts and vectors.

The models that a blend weighs lie in folders of their own (:mod:`sicsrec.models.storage`).
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sicsrec.data.transitions import TransitionCounts
from sicsrec.errors import ArtifactError
from sicsrec.models.base import SequenceModel
from sicsrec.models.blend import NEXT_GAPS, PREVIOUS_GAPS, Blend, HistoryFacts

BLEND_FILE = "blend.json"
FACTS_FILE = "blend.safetensors"


def save_blend(blend: Blend, folder: Path) -> None:
    """Write weights and facts of a blend into ``folder``, without its models."""
    config = {
        "n_items": blend.n_items,
        "models": [model.kind for model in blend.models],
        "weights": blend.weights,
    }
    (folder / BLEND_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    arrays: dict[str, NDArray[np.generic]] = {"counts": blend.facts.counts}
    for gap, counts in blend.facts.transitions.items():
        arrays[f"transitions.{gap}.pairs"] = counts.pairs
        arrays[f"transitions.{gap}.counts"] = counts.counts
    for modality, matrix in blend.facts.vectors.items():
        arrays[f"vectors.{modality}"] = np.ascontiguousarray(matrix)
    save_file(arrays, folder / FACTS_FILE)


def load_blend(folder: Path, models: Sequence[SequenceModel]) -> Blend:
    """Read a blend that :func:`save_blend` wrote.

    Args:
        folder: the folder.
        models: the models it weighs, in any order; further ones are left alone.

    Raises:
        ArtifactError: if a file is missing or broken, or a model is missing or of another
            catalogue.
    """
    try:
        config = json.loads((folder / BLEND_FILE).read_text(encoding="utf-8"))
        arrays = load_file(folder / FACTS_FILE)
        n_items, kinds = int(config["n_items"]), list(config["models"])
        weights = {str(name): float(weight) for name, weight in config["weights"].items()}
        facts = _read_facts(arrays, n_items)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as err:
        raise ArtifactError(f"{folder} is not the folder of a blend: {err}") from err
    by_kind = {model.kind: model for model in models}
    for kind in kinds:
        if kind not in by_kind:
            raise ArtifactError(f"{folder}: the blend weighs a model {kind!r}, which is missing")
        if by_kind[kind].n_items != n_items:
            raise ArtifactError(
                f"{folder}: the blend is of {n_items} items, its model {kind!r} of "
                f"{by_kind[kind].n_items}"
            )
    _check_facts(folder, facts, n_items)
    return Blend([by_kind[kind] for kind in kinds], facts, weights)


def _check_facts(folder: Path, facts: HistoryFacts, n_items: int) -> None:
    """Refuse facts of another catalogue or of another version, as of a copy that was cut off."""
    missing = {*NEXT_GAPS, *PREVIOUS_GAPS} - facts.transitions.keys()
    if missing:
        raise ArtifactError(
            f"{folder / FACTS_FILE} lacks the transitions of the gaps {sorted(missing)}"
        )
    lengths = {name: len(array) for name, array in facts.vectors.items()}
    for name, length in {"counts": len(facts.counts), **lengths}.items():
        if length != n_items:
            raise ArtifactError(
                f"{folder}: the blend is of {n_items} items, {name} in {FACTS_FILE} of {length}"
            )


def _read_facts(arrays: dict[str, NDArray[np.generic]], n_items: int) -> HistoryFacts:
    gaps = sorted(int(name.split(".")[1]) for name in arrays if name.endswith(".pairs"))
    return HistoryFacts(
        arrays["counts"].astype(np.int64),
        {
            gap: TransitionCounts(
                n_items,
                arrays[f"transitions.{gap}.pairs"].astype(np.int64),
                arrays[f"transitions.{gap}.counts"].astype(np.int64),
            )
            for gap in gaps
        },
        {
            name.removeprefix("vectors."): array.astype(np.float32)
            for name, array in arrays.items()
            if name.startswith("vectors.")
        },
    )
