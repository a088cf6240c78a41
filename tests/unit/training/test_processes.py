"""Training in two real processes gives what one gives."""

import multiprocessing
import os
import signal
import sys
import time
from contextlib import suppress

import psutil
import pytest
import torch

from sicsrec.data.sequences import Histories
from sicsrec.errors import ConfigError, TrainingDivergedError
from sicsrec.models.storage import load_model
from sicsrec.training.launching import check_device, started
from tests.unit.steps.stage_two_store import StageTwoWorld, checkpoints_below
from tests.unit.steps.tiny_store import make_catalog, make_interactions

PROCESSES = multiprocessing.get_context("forkserver")
HISTORIES = Histories.from_interactions(make_interactions(), make_catalog())
# Five targets are one row or two, so that the second process sometimes has none.
NO_DROPOUT = {"dropout": 0.0, "batch_targets": 5, "max_epochs": 2}
SAMPLED = NO_DROPOUT | {"sampled_softmax_above": 5, "n_sampled": 6}


def check_equal(tmp_path, step, changes, sicsrec=None, refit=True):
    outcomes = []
    for n_processes in (1, 2):
        root = tmp_path / str(n_processes)
        root.mkdir()
        world = StageTwoWorld(root, sicsrec, refit=refit, **changes)
        if step == "train_sicsrec":
            world.run("pretrain_id")
        report = world.run(step, n_processes=n_processes)
        assert report.content["processes"] == n_processes
        assert not list(root.glob("**/job"))
        model = load_model(world.path(f"{step}/model"))
        outcomes.append((report.content, model.score(HISTORIES)))
    (one, scores_of_one), (two, scores_of_two) = outcomes
    assert two["best_epoch"] == one["best_epoch"]
    assert len(two["log"]) == len(one["log"])
    for of_one, of_two in zip(one["log"], two["log"], strict=True):
        assert of_two == pytest.approx(of_one, rel=1e-4, abs=1e-6)
    # Scores, not weights: a bias of keys has no gradient but the noise of rounding.
    torch.testing.assert_close(scores_of_two, scores_of_one, rtol=1e-3, atol=1e-3)


def test_step_2_in_two_processes_gives_the_metrics_of_one(tmp_path):
    # Starting processes is what takes time here; the slow test of step 1 refits in them too.
    check_equal(tmp_path, "train_sicsrec", SAMPLED, {"item_dropout": 0.0}, refit=False)


@pytest.mark.slow
def test_step_1_in_two_processes_gives_the_metrics_of_one(tmp_path):
    check_equal(tmp_path, "pretrain_id", NO_DROPOUT)


@pytest.mark.slow
def test_killed_with_its_processes_it_goes_on_to_the_same_bits(tmp_path):
    """With dropout, whose masks differ between the processes."""
    digests = []
    for name, moments in (("whole", []), ("killed", [5, 4])):
        root = tmp_path / name
        root.mkdir()
        for number in moments:
            kill_after(root, number)
        world = train_in_two(root)
        digests.append(world.refs["pretrain_id/model"].digest)
    assert digests[0] == digests[1]


def kill_after(root, n_checkpoints):
    """Kill the process that started two others, and see that they end with it."""
    process = PROCESSES.Process(target=train_in_two, args=(root,))
    process.start()
    seen = set()
    deadline = time.monotonic() + 300
    while len(seen) < n_checkpoints:
        assert process.exitcode is None, "it ended before so many checkpoints"
        assert time.monotonic() < deadline
        for path in checkpoints_below(root):
            with suppress(FileNotFoundError):
                seen.add(path.stat().st_mtime_ns)
        time.sleep(0.005)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3, "torchrun and two that train"
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


def train_in_two(root):
    world = StageTwoWorld(root, max_epochs=15, patience=15)
    world.run("pretrain_id", n_processes=2)
    return world


@pytest.mark.slow
def test_what_one_of_them_raises_is_raised_here(tmp_path):
    with pytest.raises(TrainingDivergedError, match=r"id_encoder.*epoch 1.*lower learning_rate"):
        StageTwoWorld(tmp_path, learning_rate=1e30).run("pretrain_id", n_processes=2)


def test_a_device_that_cannot_be_shared_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"2 processes; ask for one \(SICSREC_PROCESSES\)"):
        check_device(torch.device("meta"), 2)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no process can be pinned here")
def test_processes_share_the_cores_that_the_one_that_starts_them_is_pinned_to(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    command = [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"]
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        with (
            (tmp_path / "said").open("wb") as output,
            started(command, output, n_processes=1, interface=None) as process,
        ):
            process.wait(60)
    finally:
        os.sched_setaffinity(0, allowed)
    assert (tmp_path / "said").read_text() == "1\n"
