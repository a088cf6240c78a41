import pytest

from sicsrec.artifacts import ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.errors import ArtifactMissingError, ConfigError
from sicsrec.steps.asking_plan import plan_asking
from sicsrec.steps.runner import run_step
from tests.unit.sampling.chat_server import serving
from tests.unit.stage_one import SMALL_CLIP


def configure(**judge):
    return PipelineConfig.model_validate(
        {
            "dataset": "small",
            "ingest": {"reader": {"kind": "demo", "n_items": 60, "n_users": 80}},
            "sample_pairs": {"judge": judge},
            "align_encoders": {"text_encoder": SMALL_CLIP},
        }
    )


def test_a_plan_sends_nothing_and_knows_what_was_answered(tmp_path):
    store, refs = ArtifactStore(tmp_path), {}
    with serving() as server:
        judge = {"kind": "openai", "base_url": server.url, "model": "m"}
        config = configure(**judge, api_key_variable="NOT_SET")
        with pytest.raises(ArtifactMissingError, match=r"ingest has not run.*--until split"):
            plan_asking(config, store)
        for name in ("ingest", "split"):
            refs |= run_step(name, config, refs, store).refs
        plan = plan_asking(config, store)
        assert plan.n_questions == plan.n_to_ask > 40
        assert server.n_requests == 0
        run_step("sample_pairs", configure(**judge), refs, store)
        assert server.n_requests == plan.n_questions
        plan = plan_asking(config, store)
    assert (plan.n_answered, plan.n_to_ask) == (plan.n_questions, 0)
    assert plan.describe()["seconds"] == 0.0


def test_a_judge_that_asks_no_model_has_no_plan(tmp_path):
    with pytest.raises(ConfigError, match="asks no language model"):
        plan_asking(configure(), ArtifactStore(tmp_path))
