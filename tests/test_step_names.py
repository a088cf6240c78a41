"""One word per step in six places."""

import importlib
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from flows.parameters import StepName
from sicsrec.config import PipelineConfig
from sicsrec.steps import STEP_NAMES, STEPS, get_step

REPOSITORY = Path(__file__).parents[1]


def _modules(folder: str) -> set[str]:
    return {path.stem for path in (REPOSITORY / folder).glob("*.py")}


def test_config_sections_are_the_steps_in_order() -> None:
    sections = [
        name
        for name, field in PipelineConfig.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    ]
    assert tuple(sections) == STEP_NAMES


def test_flow_offers_the_steps() -> None:
    assert get_args(StepName) == STEP_NAMES


@pytest.mark.parametrize("name", STEP_NAMES)
def test_step_has_module_class_task_and_name(name: str) -> None:
    section = PipelineConfig.model_fields[name].annotation
    assert section is not None
    assert section.__name__ == "".join(word.title() for word in name.split("_")) + "Config"
    assert callable(importlib.import_module(f"sicsrec.steps.{name}").run)
    task = getattr(importlib.import_module(f"tasks.{name}"), name)
    assert task.name == name
    assert task.fn.__name__ == name


def test_there_is_no_further_task() -> None:
    others = {
        "__init__",
        "_run",
        "cluster",
        "hosts",
        "comparison",
        "outcome",
        "page",
        "process_end",
        "record",
        "registration",
        "report",
        "search",
        "settings",
        "shared_store",
        "tracebacks",
    }
    assert _modules("tasks") - others == set(STEP_NAMES)


def test_inputs_name_outputs_of_earlier_steps() -> None:
    made: set[str] = set()
    for step in STEPS:
        assert {entry.name for entry in step.inputs} <= made
        assert get_step(step.name) is step
        made |= {f"{step.name}/{output.name}" for output in step.outputs}
