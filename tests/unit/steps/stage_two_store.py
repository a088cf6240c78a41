"""A store in which everything before stage 2 is committed: 12 items, 40 users, text vectors."""

from pathlib import Path

import numpy as np

from sicsrec.artifacts import ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.data.split import Split, leave_one_out
from sicsrec.data.vectors import write_vectors
from sicsrec.steps.context import StepReport
from sicsrec.steps.runner import run_step
from sicsrec.training.checkpoint import CHECKPOINT
from tests.unit.steps.tiny_store import N_ITEMS, TinyStore, make_catalog, make_interactions

STEPS = ("pretrain_id", "train_sicsrec")
TOWER = {"width": 8, "inner_width": 8, "n_layers": 1, "n_heads": 2, "max_history_length": 6}
TRAINING = {"batch_targets": 30, "learning_rate": 0.01, "max_epochs": 5, "patience": 2}


class StageTwoWorld:
    """Runs both steps of stage 2 one after the other.

    Args:
        root: folder of the store; it may hold what a killed process left.
        sicsrec: changes of train_sicsrec alone.
        pretrain: changes of pretrain_id alone.
        split: of the log; leave-one-out unless given.
        refit: train once more on train and valid.
        changes: of the values of both sections of the configuration.
    """

    def __init__(
        self,
        root: Path,
        sicsrec: dict[str, object] | None = None,
        pretrain: dict[str, object] | None = None,
        split: Split | None = None,
        refit: bool = True,
        **changes: object,
    ) -> None:
        section = TOWER | TRAINING | changes
        self.config = PipelineConfig.model_validate(
            {
                "dataset": "tiny",
                "seed": 5,
                "refit": refit,
                "ingest": {"path": "/nowhere", "reader": {"kind": "ninerec"}},
                "encode_items": {"source": {"kind": "given", "text": "given.npy"}},
                "pretrain_id": section | (pretrain or {}),
                "train_sicsrec": section | (sicsrec or {}),
            }
        )
        self.store = ArtifactStore(root / "store")
        tiny = TinyStore(self.store)
        split = split or leave_one_out(make_interactions())
        tiny.commit("ingest", {"catalog": ((), make_catalog().write)})
        tiny.commit(
            "split",
            {
                "train": (("train",), split.train.write),
                "valid": (("train", "valid"), split.valid.write),
            },
        )
        tiny.commit("encode_items", {"vectors": (("train",), _write_text_vectors)})
        self.refs = tiny.refs

    def run(self, name: str, **arguments: object) -> StepReport:
        result = run_step(name, self.config, self.refs, self.store, **arguments)
        self.refs |= result.refs
        return result.report

    def path(self, name: str) -> Path:
        return self.store.open(self.refs[name]).path()


def _write_text_vectors(folder: Path) -> None:
    matrix = np.random.default_rng(0).normal(size=(N_ITEMS, 4)).astype(np.float32)
    write_vectors(folder, "text", make_catalog(), np.arange(1, N_ITEMS + 1), matrix)


def checkpoints_below(root):
    """Return the checkpoints below a folder in which somebody is at work."""
    try:
        return list(root.glob(f"**/{CHECKPOINT}"))
    except FileNotFoundError:
        # A folder that a step has just renamed.
        return []
