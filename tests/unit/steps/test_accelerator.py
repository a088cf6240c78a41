"""Who waits for the accelerator, and when."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from flows.configuration import resolve_config
from sicsrec.artifacts import ArtifactStore
from sicsrec.errors import ConfigError
from sicsrec.steps import STEPS
from sicsrec.steps.runner import run_step
from tests.unit.steps.stage_two_store import StageTwoWorld

ACCELERATOR = "cpu:0"
"""Computes here, under a name that is not the CPU's."""


class Turnstile:
    """Counts who comes in."""

    def __init__(self) -> None:
        self.n_entered = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self.n_entered += 1
        yield


def test_held_while_a_step_computes_there_and_not_for_what_is_reused(tmp_path: Path) -> None:
    world, hold = StageTwoWorld(tmp_path), Turnstile()
    world.run("pretrain_id", device="cpu", hold_accelerator=hold)
    assert hold.n_entered == 0
    world.run("pretrain_id", device=ACCELERATOR, hold_accelerator=hold)
    assert hold.n_entered == 0, "it was reused"
    world.run("pretrain_id", device=ACCELERATOR, hold_accelerator=hold, refresh=True)
    assert hold.n_entered == 1


def test_not_held_by_a_step_that_computes_nothing_there(tmp_path: Path) -> None:
    size = ["ingest.reader.n_items=60", "ingest.reader.n_users=40"]
    config, hold = resolve_config("demo", overrides=size).config, Turnstile()
    store = ArtifactStore(tmp_path)
    run_step("ingest", config, {}, store, device=ACCELERATOR, hold_accelerator=hold)
    assert hold.n_entered == 0


def test_steps_that_read_or_ask_others_do_not_wait() -> None:
    def waiting(*overrides: str) -> set[str]:
        config = resolve_config("demo", overrides=list(overrides)).config
        return {step.name for step in STEPS if step.uses_accelerator(config)}

    training = {"align_encoders", "encode_items", "pretrain_id", "train_sicsrec"}
    local = training | {"evaluate", "export"}
    assert waiting("sample_pairs.judge.vectors=tfidf") == local
    assert waiting("sample_pairs.judge.vectors=encoder") == local | {"sample_pairs"}
    given = ("encode_items.source.kind=given", "encode_items.source.text=given.npy")
    assert "encode_items" not in waiting(*given)


@pytest.mark.parametrize("device", [f"cuda:{torch.cuda.device_count()}", "meta"])
def test_a_device_that_is_not_there_is_told_before_the_step_begins(
    tmp_path: Path, device: str
) -> None:
    world = StageTwoWorld(tmp_path)
    with pytest.raises(ConfigError, match=f"{device} cannot be used: torch finds .* of its kind"):
        world.run("pretrain_id", device=device)
    assert world.run("pretrain_id", device="cpu") is not None


@pytest.mark.parametrize("device", ["gpu", "cuda:-1"])
def test_a_device_that_torch_does_not_know_is_named(tmp_path: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"the device '{device}' is none that torch knows"):
        StageTwoWorld(tmp_path).run("pretrain_id", device=device)
