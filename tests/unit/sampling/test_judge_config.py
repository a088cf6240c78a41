import pytest
from pydantic import ValidationError

from sicsrec.config import SamplePairsConfig
from sicsrec.config.judges import (
    CoOccurrenceJudgeConfig,
    OpenAIJudgeConfig,
    RandomJudgeConfig,
    SimilarityJudgeConfig,
    TransformersJudgeConfig,
)

SERVER = {"kind": "openai", "model": "m", "base_url": "http://localhost:8000/v1/"}
PRICES = {"prompt": 1, "answer": 2}


def judge(**values):
    return SamplePairsConfig.model_validate({"judge": values}).judge


def test_the_kind_chooses_the_section_and_is_similarity_unless_named():
    assert isinstance(judge(**SERVER), OpenAIJudgeConfig)
    assert isinstance(judge(kind="transformers", model="m"), TransformersJudgeConfig)
    assert judge(kind="co_occurrence") == CoOccurrenceJudgeConfig()
    assert judge(kind="random") == RandomJudgeConfig()
    assert judge(min_positive=0.3) == SimilarityJudgeConfig(min_positive=0.3)
    assert SamplePairsConfig().judge == SimilarityJudgeConfig()


def test_an_address_is_kept_without_its_last_slash():
    assert judge(**SERVER).base_url == "http://localhost:8000/v1"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"base_url": "localhost:8000"}, "an address like"),
        ({"base_url": "ftp://x/v1"}, "an address like"),
        ({"base_url": "http://me:secret@x/v1"}, "no user, password or query"),
        ({"base_url": "http://x/v1?key=secret"}, "no user, password or query"),
        ({"api_key_variable": "sk-123"}, "api_key_variable"),
        ({"api_key": "sk-123"}, "api_key"),
        ({"request_fields": {"messages": []}}, "messages cannot be set here"),
        ({"budget": {"max_cost": 1.0}}, "needs prices"),
        ({"budget": {"max_questions": 0}}, "max_questions"),
        ({"prices": {"prompt": -1, "answer": 1}}, "prompt"),
        ({"concurrency": 0}, "concurrency"),
        ({"vectors": "tfidf"}, "vectors"),
        ({"kind": "llm"}, "llm"),
    ],
)
def test_what_cannot_work_is_refused(values, words):
    with pytest.raises(ValidationError, match=words):
        judge(**SERVER | values)


def test_money_needs_a_price():
    assert judge(**SERVER, budget={"max_cost": 1.0}, prices=PRICES).prices.currency == "USD"
    with pytest.raises(ValidationError, match="has no price"):
        judge(kind="transformers", model="m", budget={"max_cost": 1.0})
