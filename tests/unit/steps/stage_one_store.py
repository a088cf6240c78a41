"""A store in which everything before stage 1 is committed: 10 items, texts, covers, 6 users."""

from contextlib import nullcontext
from pathlib import Path

import polars as pl

from sicsrec.artifacts import ArtifactStore, Manifest
from sicsrec.config import PipelineConfig
from sicsrec.progress import NoProgress
from sicsrec.steps import get_step
from sicsrec.steps.context import StepContext
from sicsrec.steps.runner import run_step
from sicsrec.tracking import NullTracker
from tests.unit.stage_one import (
    SMALL_CLIP,
    bert,
    make_catalog,
    make_log,
    save_tiny_bert,
    write_covers,
)

HISTORIES = {
    "u1": ["i0", "i1", "i2", "i9"],
    "u2": ["i1", "i0", "i3", "i2"],
    "u3": ["i4", "i5", "i0"],
    "u4": ["i5", "i4", "i7"],
    "u5": ["i3", "i2", "i6"],
    "u6": ["i6"],
}


class Recorder(NullTracker):
    def __init__(self):
        self.metrics, self.tables = {}, {}

    def log_metrics(self, metrics, step=None):
        self.metrics |= dict(metrics)

    def log_table(self, name, frame):
        self.tables[name] = frame


class World:
    """Runs steps of stage 1 one after the other on a small catalogue."""

    def __init__(self, root: Path, catalog=None, histories=HISTORIES, **sections):
        self.root = root
        self.catalog = catalog or make_catalog()
        self.store = ArtifactStore(root / "store")
        self.recorder = Recorder()
        text = bert(save_tiny_bert(root / "bert"))
        aligned = {"text_encoder": text, "image_encoder": SMALL_CLIP, "n_epochs": 1}
        self.config = PipelineConfig.model_validate(
            {
                "dataset": "tiny",
                "seed": 5,
                "ingest": {"path": "/nowhere", "reader": {"kind": "ninerec"}},
                **sections,
                "align_encoders": {
                    **aligned,
                    "batch_size": 2,
                    **sections.get("align_encoders", {}),
                },
            }
        )
        self.refs = {}
        self._commit("ingest", {"catalog": self.catalog.write, "covers": self._write_covers})
        self._commit("split", {"train": make_log(histories).write})

    def _write_covers(self, folder):
        write_covers(folder, self.catalog)

    def _commit(self, name, writers):
        """Commit a step whose outputs are written by hand; outputs not named here are empty."""
        step = get_step(name)
        pending = self.store.begin("tiny", name, "0" * 16)
        sees = {}
        for output in step.outputs:
            folder = pending.output(output.name)
            if output.name in writers:
                writers[output.name](folder)
            parts = {"train"} if output.name == "train" else (output.sees or frozenset())
            sees[output.name] = tuple(sorted(parts))
        manifest = Manifest(
            dataset="tiny", step=name, step_version=1, key="0" * 16, config={}, seed=None,
            inputs={}, external_inputs={}, outputs=pending.describe(sees), started="2026-01-01",
            seconds=0.0, code={}, environment={},
        )  # fmt: skip
        self.store.commit(pending, manifest, {})
        self.refs |= manifest.refs()

    def run(self, name, **arguments):
        result = run_step(
            name,
            self.config,
            self.refs,
            self.store,
            open_tracker=lambda step, key: nullcontext(self.recorder),
            **arguments,
        )
        self.refs |= result.refs
        return result.report

    def path(self, name):
        return self.store.open(self.refs[name]).path()

    def pairs(self):
        return pl.read_parquet(self.path("sample_pairs/pairs") / "pairs.parquet")

    def context(self, name):
        """What ``run`` of a step is given, for steps that are to fail."""
        readers = {
            entry.name: self.store.open(self.refs[entry.name])
            for entry in get_step(name).inputs
            if entry.name in self.refs
        }
        pending = self.store.begin("tiny", name, "f" * 16)
        return StepContext(self.config, readers, pending, self.recorder, NoProgress())
