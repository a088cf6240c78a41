"""A step reads nothing but what its key holds.

Otherwise a changed value would leave its old output in use.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sicsrec.artifacts import ArtifactRef, ArtifactStore, make_key
from sicsrec.config import PipelineConfig
from sicsrec.config.base import Section
from sicsrec.data.demo import write_demo
from sicsrec.errors import DataError
from sicsrec.steps import STEPS, Step, get_step, inputs_of, runner
from sicsrec.steps.context import StepContext
from sicsrec.steps.runner import run_step, step_identity
from tests.leakage.test_noninterference import configuration

NOT_OUTPUT = {"dataset"}
"""Names the folder of the store, so equal keys of two datasets never meet."""


def watched(section: Section, path: str, reads: set[str]) -> Section:
    """Return an equal section that notes which of its fields are read."""
    fields = type(section).model_fields

    def read(self: Section, name: str) -> Any:
        value = super(kind, self).__getattribute__(name)
        if name not in fields:
            return value
        if isinstance(value, Section):
            return watched(value, f"{path}{name}.", reads)
        reads.add(f"{path}{name}")
        return value

    kind = type(type(section).__name__, (type(section),), {"__getattribute__": read})
    return kind.model_construct(**{name: getattr(section, name) for name in fields})


def test_steps_read_what_their_keys_hold(tmp_path, monkeypatch) -> None:
    write_demo(tmp_path, n_items=40, n_users=60, seed=3)
    config = configuration(tmp_path)
    reads: dict[str, set[str]] = {}

    def watching(context_config: PipelineConfig, *args: Any, **kwargs: Any) -> StepContext:
        reads[name] = set()
        return StepContext(watched(context_config, "", reads[name]), *args, **kwargs)

    monkeypatch.setattr(runner, "StepContext", watching)
    store, refs = ArtifactStore(tmp_path / "store"), {}
    for step in STEPS:
        name = step.name
        refs |= run_step(name, config, refs, store).refs
        allowed = (
            f"{name}.",
            *step.further_sections(config),
            *(["seed"] if step.is_seeded else []),
        )
        beyond = {path for path in reads[name] - NOT_OUTPUT if not path.startswith(allowed)}
        assert not beyond, f"{name} reads what its key does not hold: {sorted(beyond)}"
        assert reads[name], "the step was not watched"


def test_a_section_beyond_the_key_is_noticed() -> None:
    reads: set[str] = set()
    config = watched(configuration("/nowhere"), "", reads)
    assert isinstance(config, PipelineConfig)
    assert config.train_sicsrec.alpha == 0.2
    assert config.align_encoders.memory_bank.size == 0
    assert reads == {"train_sicsrec.alpha", "align_encoders.memory_bank.size"}


@pytest.mark.parametrize("name", ["pretrain_id", "train_sicsrec"])
def test_a_precision_that_is_named_is_in_the_key(name) -> None:
    config = configuration("/nowhere")
    found = []
    for precision in ("auto", "float32", "bfloat16"):
        section = getattr(config, name).model_copy(update={"precision": precision})
        changed = config.model_copy(update={name: section})
        found.append(get_step(name).not_in_key(changed))
    assert found == [("precision",), (), ()]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_what_is_not_in_the_key_exists(step) -> None:
    config = configuration("/nowhere")
    for path in (
        *step.further_sections(config),
        *(f"{step.name}.{p}" for p in step.not_in_key(config)),
    ):
        value: Any = config
        for part in path.split("."):
            value = getattr(value, part)


def key_of(step: Step, config: PipelineConfig, digest: str = "a") -> str:
    names = [entry.name for entry in inputs_of(step, config)]
    refs = {
        name: ArtifactRef("t", name.split("/")[0], "0" * 16, name.split("/")[1], digest, ())
        for name in names
    }
    return make_key(step_identity(step, config, refs))


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_seed_inputs_and_version_are_in_the_key(step: Step, tmp_path: Path) -> None:
    write_demo(tmp_path, n_items=4, n_users=6, seed=3)
    config = configuration(tmp_path)
    key = key_of(step, config)
    assert key == key_of(step, config)
    other = config.model_copy(update={"seed": config.seed + 1})
    assert (key_of(step, other) != key) == step.is_seeded
    assert (key_of(step, config, digest="b") != key) == bool(inputs_of(step, config))
    assert key_of(replace(step, version=step.version + 1), config) != key


def test_data_that_changed_are_in_the_key(tmp_path: Path) -> None:
    write_demo(tmp_path, n_items=4, n_users=6, seed=3)
    config, step = configuration(tmp_path), get_step("ingest")
    key = key_of(step, config)
    with (tmp_path / "interactions.csv").open("a") as log:
        log.write("\n")
    assert key_of(step, config) != key


def test_a_link_that_is_set_anew_is_in_the_key(tmp_path: Path) -> None:
    """Nightly deliveries are often a folder per night and a link to the last."""
    for night in ("1", "2"):
        (tmp_path / night).mkdir()
        write_demo(tmp_path / night, n_items=4, n_users=6, seed=3)
    keys = set()
    for night in ("1", "2"):
        (tmp_path / "latest").symlink_to(night)
        keys.add(key_of(get_step("ingest"), configuration(tmp_path)))
        (tmp_path / "latest").unlink()
    assert len(keys) == 2


def test_data_that_change_while_they_are_read_are_kept_under_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_demo(data, n_items=40, n_users=60, seed=3)
    config, store = configuration(data), ArtifactStore(tmp_path / "store")

    def changing(*args: Any, **kwargs: Any) -> StepContext:
        with (data / "items.csv").open("a") as items:
            items.write("\n")
        return StepContext(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "StepContext", changing)
        with pytest.raises(DataError, match="ingest: raw_data changed while"):
            run_step("ingest", config, {}, store)
    assert list(store.manifests(config.dataset, "ingest")) == []
    result = run_step("ingest", config, {}, store)
    assert result.manifest.key == key_of(get_step("ingest"), config)
