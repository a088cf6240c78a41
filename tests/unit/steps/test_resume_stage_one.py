"""Stage 1 in real processes that are really killed: what comes after is as if nothing had been."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.steps.stage_one_store import World

SECTIONS = {
    "align_encoders": {"n_epochs": 3, "learning_rate": 1e-2, "memory_bank": {"size": 6}},
    "encode_items": {"shard_items": 3, "batch_size": 2},
}
STEPS = ("sample_pairs", "align_encoders", "encode_items")

PROGRAM = """
import sys, time
from contextlib import contextmanager
from pathlib import Path
from sicsrec.training import alignment_loop
from tests.unit.steps.stage_one_store import World
from tests.unit.steps.test_resume_stage_one import SECTIONS, STEPS

root, stage_name, after = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
alignment_loop.CHECKPOINT_SECONDS = 0.0

class Hang:
    @contextmanager
    def stage(self, description, total):
        done = 0
        def advance(n=1, note=""):
            nonlocal done
            done += n
            if description == stage_name and done >= after:
                (root / "hanging").touch()
                time.sleep(600)
        yield advance

world = World(root, **SECTIONS)
for name in STEPS:
    world.run(name, progress=Hang())
"""


def kill_in(root, stage, after):
    """Run stage 1 in another process and kill it in the middle of a stage."""
    root.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root), stage, str(after)],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 300
        while not (root / "hanging").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    (root / "hanging").unlink()


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
