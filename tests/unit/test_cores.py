import os

import pytest
import torch

from sicsrec.cores import keep_torch_to_usable_cores, usable_cores
from sicsrec.recommender import Recommender
from tests.unit.recommender_parts import export_tiny
from tests.unit.steps.stage_two_store import StageTwoWorld


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no process can be pinned here")
def test_a_pinned_process_may_use_the_cores_it_is_pinned_to() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(("asked", "expected"), [(None, 1), ("3", 3)])
def test_a_step_computes_in_as_many_threads_as_there_are_cores_to_use(
    asked: str | None, expected: int, three_threads: None, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stands for the limit of a container, which takes a container to set.
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    StageTwoWorld(tmp_path, max_epochs=1).run("pretrain_id")
    assert torch.get_num_threads() == expected


def test_a_loaded_recommender_computes_in_as_many_threads_as_a_step(
    three_threads: None, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    folder = export_tiny(tmp_path, "sicsrec")[1].model_folder
    torch.set_num_threads(3)
    Recommender.load(folder)
    assert torch.get_num_threads() == 1


def test_fewer_threads_than_cores_stay(three_threads: None, monkeypatch) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1000")
    torch.set_num_threads(1)
    keep_torch_to_usable_cores()
    assert torch.get_num_threads() == 1
