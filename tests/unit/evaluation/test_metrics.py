import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sicsrec.evaluation import metrics
from sicsrec.evaluation.metrics import (
    hit_rate,
    mean_metrics,
    metric_table,
    ndcg,
    per_user_metrics,
    reciprocal_rank,
)

RANKS = np.array([1, 2, 5, 6, 10, 11, 1000])


def test_values_by_hand() -> None:
    assert hit_rate(RANKS, 5).tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert hit_rate(RANKS, 10).tolist() == [1, 1, 1, 1, 1, 0, 0]
    # 1 / log2(2), 1 / log2(3), 1 / log2(6), then 0
    np.testing.assert_allclose(
        ndcg(RANKS, 5), [1.0, 0.6309297535714575, 0.38685280723454163, 0, 0, 0, 0]
    )
    np.testing.assert_allclose(reciprocal_rank(RANKS), [1, 0.5, 0.2, 1 / 6, 0.1, 1 / 11, 0.001])


def test_names_of_the_table() -> None:
    assert list(metric_table((5, 10))) == ["hr_at_5", "hr_at_10", "ndcg_at_5", "ndcg_at_10", "mrr"]
    assert list(per_user_metrics(RANKS, (1,))) == ["hr_at_1", "ndcg_at_1", "mrr"]


def test_means_are_means_over_users() -> None:
    means = mean_metrics(np.array([1, 3, 100, 100]), (10,))
    assert means == pytest.approx(
        {"hr_at_10": 0.5, "ndcg_at_10": (1 + 0.5) / 4, "mrr": (1 + 1 / 3 + 0.02) / 4}
    )


def test_means_of_nobody_do_not_exist() -> None:
    with pytest.raises(ValueError, match="at least one"):
        mean_metrics(np.array([], dtype=np.int64), (10,))


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=30), st.integers(1, 50))
def test_every_metric_lies_in_range_and_falls_with_the_rank(ranks: list[int], cutoff: int) -> None:
    ordered = np.sort(np.array(ranks))
    for values in per_user_metrics(ordered, (cutoff,)).values():
        assert values.dtype == np.float64
        assert (values >= 0).all()
        assert (values <= 1).all()
        assert (np.diff(values) <= 0).all()


def test_examples_in_the_docstrings() -> None:
    assert doctest.testmod(metrics, extraglobs={"np": np}) == (0, 5)
