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
from sicsrec.evaluation.intervals import bootstrap_means
from sicsrec.evaluation.metrics import per_user_metrics
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


def test_intervals_follow_the_protocol(ranked: RankedSplit) -> None:
    """Of every column their own, with the coverage and the resamples that are asked for."""
    [first, second] = [per_user_metrics(ranks, (1, 10)) for ranks in ranked.ranks.values()]
    differences = {
        row["metric"]: row for row in difference_rows(ranked, "ours", ("rival",), PROTOCOL)
    }
    for row, values in zip(result_rows(ranked, PROTOCOL), (first, second), strict=True):
        for metric in PROTOCOL.metrics:
            means = bootstrap_means(values[metric][:, None], 200, seed=3)
            low, high = np.quantile(means, [0.05, 0.95])
            assert (row[f"{metric}_low"], row[f"{metric}_high"]) == pytest.approx((low, high))
    for metric, row in differences.items():
        means = bootstrap_means((first[metric] - second[metric])[:, None], 200, seed=3)
        low, high = np.quantile(means, [0.05, 0.95])
        assert (row["low"], row["high"]) == pytest.approx((low, high))


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
