import numpy as np
import polars as pl
import pytest

from sicsrec.evaluation.comparison import (
    Protocol,
    RankedSplit,
    cohort_rows,
    difference_rows,
    per_user_frame,
    result_rows,
)
from sicsrec.evaluation.ranking import RankingSet
from tests.unit.evaluation.conftest import make_catalog, make_histories

PROTOCOL = Protocol(cutoffs=(1, 10), n_bootstrap=200, confidence=0.9, seed=3)


@pytest.fixture
def ranked() -> RankedSplit:
    ranking_set = RankingSet(
        make_histories([1], [2, 3], [], [3, 3, 3]), np.array([2, 1, 3, 3], dtype=np.int32)
    )
    return RankedSplit(
        "test", ranking_set, {"ours": np.array([1, 2, 1, 20]), "rival": np.array([2, 20, 1, 20])}
    )


def test_results_hold_means_and_intervals(ranked: RankedSplit) -> None:
    ours, rival = result_rows(ranked, PROTOCOL)
    assert (ours["model"], ours["split"], ours["users"]) == ("ours", "test", 4)
    assert ours["hr_at_1"] == 0.5
    assert ours["hr_at_10"] == 0.75
    assert rival["mrr"] == pytest.approx((0.5 + 0.05 + 1 + 0.05) / 4)
    for metric in PROTOCOL.metrics:
        assert ours[f"{metric}_low"] <= ours[metric] <= ours[f"{metric}_high"]
        assert ours[f"{metric}_low"] < ours[f"{metric}_high"]


def test_differences_are_first_minus_rival(ranked: RankedSplit) -> None:
    rows = difference_rows(ranked, "ours", ("rival",), PROTOCOL)
    assert [row["metric"] for row in rows] == PROTOCOL.metrics
    by_metric = {row["metric"]: row for row in rows}
    assert by_metric["hr_at_1"]["difference"] == 0.25
    assert by_metric["hr_at_10"]["difference"] == 0.25
    assert by_metric["hr_at_10"]["share_below_zero"] == 0.0
    assert {(row["model"], row["rival"], row["split"]) for row in rows} == {
        ("ours", "rival", "test")
    }


def test_cohorts_count_their_own_users_only(ranked: RankedSplit) -> None:
    cohorts = {
        "some": np.array([True, False, True, False]),
        "nobody": np.zeros(4, dtype=np.bool_),
    }
    rows = cohort_rows(ranked, cohorts, PROTOCOL)
    assert [(row["cohort"], row["model"], row["users"]) for row in rows] == [
        ("some", "ours", 2),
        ("some", "rival", 2),
        ("nobody", "ours", 0),
        ("nobody", "rival", 0),
    ]
    assert rows[0]["hr_at_1"] == 1.0
    assert rows[2]["hr_at_1"] is None
    assert set(rows[0]) == set(rows[2])


def test_the_user_table_keeps_every_user_and_model(ranked: RankedSplit) -> None:
    cohorts = {
        "cold_target": np.array([False, True, False, False]),
        "head_target": np.array([True, False, False, False]),
    }
    frame = per_user_frame(ranked, cohorts, make_catalog("x", "y", "z"))
    assert frame.height == 8
    row = frame.filter(pl.col("user_id") == "u0001", pl.col("model") == "rival").to_dicts()
    assert row == [
        {
            "user_id": "u0001",
            "split": "test",
            "model": "rival",
            "item_id": "x",
            "rank": 20,
            "history_length": 2,
            "is_cold": True,
            "is_head": False,
        }
    ]
