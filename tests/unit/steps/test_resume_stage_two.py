"""Stage 2 in real processes that are really killed: what comes after is as if nothing had been."""

import os
import re
import time
from pathlib import Path

import pytest
import torch

from sicsrec.training import checkpoint, job
from tests.unit.steps.killing import hanging_mark, kill_when_hanging
from tests.unit.steps.stage_two_store import STEPS, StageTwoWorld

# Random numbers come from the seed anew; content has to be read again, and rows of it are kept.
STARTS_AT_CONTENT = {"item_start": {"kind": "content"}}


def hang_at(call, number, mark):
    """Return ``call`` so that it never comes back from being called for the n-th time."""
    count = 0

    def counted(*arguments, **keywords):
        nonlocal count
        count += 1
        if count == number:
            mark.touch()
            time.sleep(600)
        return call(*arguments, **keywords)

    return counted


def run_until(root: Path, step: str, moment: str, number: int, seconds: float) -> None:
    """Run stage 2 and hang in a step when something happens for the n-th time."""
    checkpoint.CHECKPOINT_SECONDS = seconds
    world = StageTwoWorld(root, pretrain=STARTS_AT_CONTENT)
    for name in STEPS:
        if name == step:
            owner, attribute = {
                "batch": (torch.autograd, "backward"),
                "validation": (job, "rank_targets"),
                "writing": (os, "fsync"),
            }[moment]
            call = hang_at(getattr(owner, attribute), number, hanging_mark(root))
            setattr(owner, attribute, call)
        world.run(name)


def kill_in(root: Path, *moment) -> None:
    kill_when_hanging(run_until, root, *moment)


def run_all(root):
    world = StageTwoWorld(root, pretrain=STARTS_AT_CONTENT)
    reports = {name: world.run(name).content for name in STEPS}
    for report in reports.values():
        del report["seconds_per_epoch"]
    return {name: ref.digest for name, ref in world.refs.items()}, reports


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_all(tmp_path_factory.mktemp("whole"))


def left_behind(root, step):
    return {path.name for path in (root / "store" / "tiny" / step).glob(".*.partial/work/*")}


def test_the_runs_to_be_killed_are_long_enough(whole):
    _, reports = whole
    assert all(report["epochs"] >= 3 for report in reports.values())
    assert any(report["best_epoch"] < report["epochs"] for report in reports.values())


@pytest.mark.parametrize(
    "moments",
    [
        [("pretrain_id", "batch", 5, 1e9)],  # checkpoints after whole epochs only
        [("pretrain_id", "validation", 2, 0.0), ("pretrain_id", "batch", 2, 0.0)],
        [("train_sicsrec", "batch", 6, 0.0), ("train_sicsrec", "validation", 1, 0.0)],
        [("train_sicsrec", "writing", 5, 0.0)],
    ],
)
def test_killed_and_run_again_it_gives_the_bits_of_an_undisturbed_run(tmp_path, whole, moments):
    for moment in moments:
        kill_in(tmp_path, *moment)
        assert checkpoint.CHECKPOINT in left_behind(tmp_path, moment[0])
    assert run_all(tmp_path) == whole
    assert not left_behind(tmp_path, moments[-1][0])


def test_killed_before_the_first_checkpoint_was_whole(tmp_path, whole):
    kill_in(tmp_path, "pretrain_id", "writing", 1, 0.0)
    (left,) = left_behind(tmp_path, "pretrain_id")
    assert re.fullmatch(r"\.checkpoint\.pt\.[0-9a-f]+\.tmp", left)
    assert run_all(tmp_path) == whole
    assert not left_behind(tmp_path, "pretrain_id")


def test_killed_while_it_trained_once_more_on_train_and_valid(tmp_path, whole):
    _, reports = whole
    n_batches = 3 * reports["train_sicsrec"]["epochs"]
    kill_in(tmp_path, "train_sicsrec", "batch", n_batches + 2, 0.0)
    assert "refit" in left_behind(tmp_path, "train_sicsrec")
    assert run_all(tmp_path) == whole


def test_it_goes_on_within_an_epoch(tmp_path, whole, caplog):
    kill_in(tmp_path, "pretrain_id", "batch", 5, 0.0)  # the second of three in the second epoch
    with caplog.at_level("INFO", logger="sicsrec"):
        assert run_all(tmp_path) == whole
    assert "continuing after epoch 1 and 1 batches" in caplog.text
