"""No step takes an input that has seen more of the log than the step may see."""

import pytest

from sicsrec.artifacts import ArtifactRef, ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.errors import LeakageError
from sicsrec.steps import STEPS, TRAIN_VALID, WHOLE_LOG, Step, inputs_of
from sicsrec.steps.context import StepContext
from sicsrec.steps.runner import check_leaks, run_step

CONFIG = PipelineConfig.model_validate(
    {
        "dataset": "t",
        "ingest": {"reader": {"kind": "demo"}},
        "align_encoders": {"text_encoder": {"library": "open_clip", "architecture": {}}},
        "pretrain_id": {"item_start": {"kind": "content"}},
    }
)

LIMITED = [
    (step, entry.name)
    for step in STEPS
    for entry in inputs_of(step, CONFIG)
    if entry.may_see < WHOLE_LOG
]


def refs_of(step: Step, **sees) -> dict[str, ArtifactRef]:
    """References of all inputs, each having seen all it may, but for those named."""
    refs = {}
    for entry in inputs_of(step, CONFIG):
        origin, output = entry.name.split("/")
        seen = sees.get(entry.name.replace("/", "__"), entry.may_see)
        refs[entry.name] = ArtifactRef("t", origin, "0" * 16, output, "d", tuple(sorted(seen)))
    return refs


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_what_may_be_seen_is_accepted(step):
    check_leaks(step, CONFIG, refs_of(step))


@pytest.mark.parametrize(("step", "name"), LIMITED, ids=lambda value: getattr(value, "name", value))
def test_input_that_has_seen_more_is_refused_before_anything_runs(step, name, tmp_path):
    refs = refs_of(step, **{name.replace("/", "__"): WHOLE_LOG})
    with pytest.raises(LeakageError, match=rf"{step.name} must not use {name} .*test"):
        run_step(step.name, CONFIG, refs, ArtifactStore(tmp_path))
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.mark.parametrize("name", ["sample_pairs", "align_encoders", "encode_items"])
def test_stage_one_refuses_validation_too(name, tmp_path):
    step = next(step for step in STEPS if step.name == name)
    for entry in inputs_of(step, CONFIG):
        refs = refs_of(step, **{entry.name.replace("/", "__"): TRAIN_VALID})
        with pytest.raises(LeakageError, match="valid"):
            run_step(name, CONFIG, refs, ArtifactStore(tmp_path))


def test_only_steps_after_training_open_the_test_part():
    seeing = {step.name for step in STEPS if any("test" in entry.may_see for entry in step.inputs)}
    assert seeing == {"split", "evaluate", "export"}


def test_what_a_step_has_seen_is_what_its_inputs_have_seen():
    for step in STEPS:
        allowed = frozenset().union(*(entry.may_see for entry in step.inputs))
        for output in step.outputs:
            if step.inputs and output.sees is not None:
                assert output.sees <= allowed


def test_step_cannot_ask_for_an_input_it_did_not_declare(tmp_path):
    pending = ArtifactStore(tmp_path).begin("t", "sample_pairs", "0" * 16)
    context = StepContext(CONFIG, {}, pending)
    with pytest.raises(LeakageError, match="did not declare the input split/test"):
        context.input("split/test")
