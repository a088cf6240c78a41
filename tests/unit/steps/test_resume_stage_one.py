"""Stage 1 in real processes that are really killed: what comes after is as if nothing had been."""

import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from sicsrec.training import alignment_loop
from tests.unit.steps.killing import hanging_mark, kill_when_hanging
from tests.unit.steps.stage_one_store import World

SECTIONS = {
    "align_encoders": {"n_epochs": 3, "learning_rate": 1e-2, "memory_bank": {"size": 6}},
    "encode_items": {"shard_items": 3, "batch_size": 2},
}
STEPS = ("sample_pairs", "align_encoders", "encode_items")


class Hang:
    """Progress that stands still for good after so many units of a stage."""

    def __init__(self, stage_name: str, after: int, mark: Path) -> None:
        self.stage_name, self.after, self.mark = stage_name, after, mark

    @contextmanager
    def stage(self, description, total):
        done = 0

        def advance(n=1, note=""):
            nonlocal done
            done += n
            if description == self.stage_name and done >= self.after:
                self.mark.touch()
                time.sleep(600)

        yield advance


def run_until(root: Path, stage: str, after: int) -> None:
    """Run stage 1 and hang in the middle of a stage."""
    alignment_loop.CHECKPOINT_SECONDS = 0.0
    world = World(root, **SECTIONS)
    for name in STEPS:
        world.run(name, progress=Hang(stage, after, hanging_mark(root)))


def kill_in(root, stage, after):
    """Run stage 1 in another process and kill it in the middle of a stage."""
    root.mkdir(exist_ok=True)
    kill_when_hanging(run_until, root, stage, after)


def run_all(root):
    world = World(root, **SECTIONS)
    reports = {name: world.run(name) for name in STEPS}
    return world, reports


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_all(tmp_path_factory.mktemp("whole"))


def left_behind(world, step):
    """Names of the files that a killed run left in the work folder of a step."""
    return {path.name for path in (world.store.root / "tiny" / step).glob(".*.partial/work/*")}


def check_equal(root, whole, stage):
    expected, expected_reports = whole
    world, reports = run_all(root)
    for name in ("align_encoders/encoders", "encode_items/vectors"):
        assert world.refs[name].digest == expected.refs[name].digest
    assert reports == expected_reports
    assert not left_behind(world, stage)


def test_killed_while_activations_were_written(tmp_path, whole):
    kill_in(tmp_path, "reading text", 2)
    assert "text_inputs.npz" not in left_behind(World(tmp_path, **SECTIONS), "align_encoders")
    check_equal(tmp_path, whole, "align_encoders")


def test_killed_in_the_middle_of_an_epoch_twice(tmp_path, whole):
    # Two batches an epoch: after the first of the second epoch, then after one more.
    kill_in(tmp_path, "alignment", 3)
    left = left_behind(World(tmp_path, **SECTIONS), "align_encoders")
    assert {"alignment.pt", "text_inputs.npz", "image_inputs.npz"} <= left
    kill_in(tmp_path, "alignment", 1)
    check_equal(tmp_path, whole, "align_encoders")


def test_killed_between_shards_of_vectors(tmp_path, whole):
    kill_in(tmp_path, "encoding image", 5)
    left = left_behind(World(tmp_path, **SECTIONS), "encode_items")
    assert {"text-00000.npy", "text-00002.npy", "image-00000.npy"} <= left
    assert "image-00001.npy" not in left
    check_equal(tmp_path, whole, "encode_items")
