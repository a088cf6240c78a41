import pytest

from flows.configuration import resolve_config
from tasks.record import config_digest, final_metrics, flatten, report_metrics

RESULTS = [
    {"model": "popularity", "split": "test", "users": 9, "ndcg_at_10": 0.1},
    {"model": "SICSRec", "split": "test", "users": 9, "ndcg_at_10": 0.3, "mrr": None},
    {"model": "SICSRec", "split": "valid", "users": 9, "ndcg_at_10": 0.4},
]


def test_final_metrics_are_those_of_sicsrec() -> None:
    assert final_metrics(RESULTS) == {"test/ndcg_at_10": 0.3, "valid/ndcg_at_10": 0.4}
    assert final_metrics([]) == {}


def test_report_metrics_are_numbers_under_names_that_mlflow_takes() -> None:
    content = {"rows": 3, "refused": {"too (old)": 1.5}, "done": True, "names": ["a"], "none": None}
    assert report_metrics(content) == {"report/rows": 3.0, "report/refused.too _old_": 1.5}


def test_report_metrics_are_bounded() -> None:
    assert len(report_metrics({str(index): index for index in range(999)})) == 200


def test_flatten_keeps_lists_whole() -> None:
    assert flatten({"a": {"b": [1, {"c": 2}]}}) == {"a.b": [1, {"c": 2}]}


@pytest.mark.parametrize("override", ["seed=1", "train_sicsrec.alpha=0.9"])
def test_config_digest_names_the_configuration(override: str) -> None:
    base = config_digest(resolve_config("demo").config)
    assert base == config_digest(resolve_config("demo").config)
    assert base != config_digest(resolve_config("demo", overrides=[override]).config)
