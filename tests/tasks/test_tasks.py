"""What holds for every task."""

import importlib
import inspect
from pathlib import Path

import pytest
from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.states import Failed

from sicsrec.errors import BackendUnavailableError, DataError
from sicsrec.steps import STEP_NAMES
from tasks._run import is_worth_a_retry


def task_of(name: str) -> Task:
    task = getattr(importlib.import_module(f"tasks.{name}"), name)
    assert isinstance(task, Task)
    return task


@pytest.mark.parametrize("name", STEP_NAMES)
def test_task_is_thin_and_leaves_reuse_to_the_store(name: str) -> None:
    task = task_of(name)
    assert task.cache_policy is NO_CACHE
    assert not task.persist_result
    assert list(inspect.signature(task.fn).parameters) == ["config", "refs", "run"]
    source = inspect.getsourcefile(task.fn)
    assert source is not None
    assert len(Path(source).read_text().splitlines()) <= 40


def test_only_a_judge_that_cannot_be_reached_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert {name for name in STEP_NAMES if task_of(name).retries} == {"sample_pairs"}
    run = TaskRun.model_construct()
    task = task_of("sample_pairs")
    gone = Failed(data=BackendUnavailableError("no answer"))
    assert not is_worth_a_retry(task, run, gone)  # a person waits at the terminal
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "of a deployment")
    assert is_worth_a_retry(task, run, gone)
    assert not is_worth_a_retry(task, run, Failed(data=DataError("no titles")))


def test_no_task_waits_before_it_is_known_to_compute_on_a_gpu() -> None:
    assert not any(task_of(name).tags for name in STEP_NAMES)
