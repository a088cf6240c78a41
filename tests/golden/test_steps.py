"""What every step of a small demo gives, by version of the step.

Outputs are reused as long as a step's version stays, so a change of what it computes must raise it.
``SICSREC_RECORD_GOLDEN=1 pytest -n 0 tests/golden`` records anew.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from sicsrec.artifacts import ArtifactReader, ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.steps import STEP_NAMES, STEPS
from sicsrec.steps.runner import StepResult, run_step

RECORDED = Path(__file__).with_name("steps.json")
IS_RECORDING = os.environ.get("SICSREC_RECORD_GOLDEN") == "1"
MODEL = {"width": 16, "inner_width": 16, "n_layers": 1, "n_heads": 1, "max_epochs": 2}
TOWER = {"width": 16, "n_layers": 1, "n_heads": 1}
CONFIG = PipelineConfig.model_validate(
    {
        "dataset": "demo",
        "seed": 2024,
        "ingest": {"reader": {"kind": "demo", "n_items": 60, "n_users": 80}},
        "align_encoders": {
            "text_encoder": {"library": "open_clip", "architecture": TOWER},
            "image_encoder": {"library": "open_clip", "architecture": {**TOWER, "image_size": 32}},
            "n_epochs": 1,
        },
        "pretrain_id": MODEL,
        "train_sicsrec": MODEL,
        "evaluate": {"n_bootstrap": 20},
    }
)
EXACT = {
    "ingest": ("catalog/items", "interactions/interactions", "quarantine/quarantine"),
    "split": (
        "train/interactions",
        "valid/interactions",
        *(f"{part}/{table}" for part in ("valid", "test") for table in ("context", "targets")),
    ),
    "sample_pairs": ("pairs/pairs",),
}
"""Tables that are the same to the letter wherever they are made."""


def digest(frame: pl.DataFrame) -> str:
    """Of the content, as the bytes of a Parquet file depend on who writes it."""
    return hashlib.sha256(frame.write_ndjson().encode()).hexdigest()[:16]


def losses(records: list[dict[str, float]]) -> list[float]:
    return [value for record in records for name, value in record.items() if "loss" in name]


def vectors(path: Path) -> list[float]:
    matrix = np.stack(pl.read_parquet(path)["vector"].to_list())
    return [float(matrix.mean()), float(matrix.std()), *map(float, matrix[0, :3])]


def rivals(content: dict[str, Any]) -> list[float]:
    """Metrics of what counts alone; one place in a model's ranking may depend on the processor."""
    counted = [row for row in content["results"] if row["model"] in {"popularity", "transitions"}]
    return [row[f"{metric}_at_10"] for row in counted for metric in ("hr", "ndcg")]


def numbers(step: str, content: dict[str, Any], outputs: dict[str, ArtifactReader]) -> list[float]:
    """What training computes: nearly the same on every processor."""
    match step:
        case "align_encoders":
            return losses(content["epochs"])
        case "encode_items":
            folder = outputs["encode_items/vectors"].path()
            return [*vectors(folder / "text.parquet"), *vectors(folder / "image.parquet")]
        case "pretrain_id" | "train_sicsrec":
            blends = [fit["loss"] for fit in content.get("blend", {}).values()]
            return [*losses([*content["log"], *content["refit"]["log"]]), *blends]
        case "evaluate":
            return rivals(content)
        case "export":
            return vectors(outputs["export/vectors"].path() / "items.parquet")
        case _:
            return []


def described(step: str, result: StepResult, store: ArtifactStore) -> dict[str, Any]:
    outputs = {name: store.open(ref) for name, ref in result.refs.items()}
    tables = {}
    for place in EXACT.get(step, ()):
        output, table = place.split("/")
        path = outputs[f"{step}/{output}"].path() / f"{table}.parquet"
        # In the quarantine's details a decoder may say the same in other words one day.
        tables[place] = digest(pl.read_parquet(path).drop("detail", strict=False))
    return {"tables": tables, "numbers": numbers(step, result.report.content, outputs)}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    store, refs, steps = ArtifactStore(tmp_path_factory.mktemp("store")), {}, {}
    for step in STEPS:
        result = run_step(step.name, CONFIG, refs, store)
        refs |= result.refs
        steps[step.name] = {"version": step.version, **described(step.name, result, store)}
    if IS_RECORDING:
        RECORDED.write_text(json.dumps(steps, indent=1) + "\n", encoding="utf-8")
    return steps


@pytest.mark.parametrize("step", STEP_NAMES)
def test_what_a_step_gives_changes_with_its_version_alone(step: str, found: dict[str, Any]) -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))[step]
    assert found[step]["version"] == recorded["version"], (
        "record the outputs of this version (see the docstring of this file)"
    )
    advice = "its output has changed: raise its version in sicsrec/steps/__init__.py, and record"
    assert found[step]["tables"] == recorded["tables"], advice
    assert found[step]["numbers"] == pytest.approx(recorded["numbers"], rel=1e-3, abs=1e-3), advice
    assert recorded["tables"] or recorded["numbers"]
