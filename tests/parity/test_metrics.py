"""Ranks and metrics against brute force and against scikit-learn, on scores without ties."""

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score

from sicsrec.data.sequences import Histories
from sicsrec.evaluation.metrics import mean_metrics, per_user_metrics
from sicsrec.evaluation.ranking import rank_targets

N_USERS, N_ITEMS = 60, 37


class Scores:
    def __init__(self, scores: np.ndarray) -> None:
        self.scores = torch.from_numpy(scores)

    def score(self, histories: Histories) -> torch.Tensor:
        return self.scores[[int(user) for user in histories.user_ids]]


@pytest.fixture
def scores() -> np.ndarray:
    rng = np.random.default_rng(11)
    return np.stack([rng.permutation(N_ITEMS) for _ in range(N_USERS)]) / 7.0


@pytest.fixture
def targets() -> np.ndarray:
    return np.random.default_rng(12).integers(1, N_ITEMS + 1, N_USERS).astype(np.int32)


@pytest.fixture
def ranks(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    histories = Histories(
        pl.Series("user_id", [f"{row}" for row in range(N_USERS)]),
        np.zeros(N_USERS + 1, dtype=np.int64),
        np.zeros(0, dtype=np.int32),
    )
    return rank_targets(Scores(scores), histories, targets, remove_seen=False, block_users=13)


@pytest.mark.parametrize("k", [1, 5, 10, N_ITEMS])
def test_against_sklearn(
    k: int, ranks: np.ndarray, scores: np.ndarray, targets: np.ndarray
) -> None:
    relevant = np.zeros((N_USERS, N_ITEMS))
    relevant[np.arange(N_USERS), targets - 1] = 1.0
    ours = mean_metrics(ranks, (k,))
    assert ours[f"ndcg_at_{k}"] == pytest.approx(ndcg_score(relevant, scores, k=k), abs=1e-12)
    assert ours["mrr"] == pytest.approx(
        label_ranking_average_precision_score(relevant, scores), abs=1e-12
    )
    if k < N_ITEMS:
        hits = top_k_accuracy_score(targets - 1, scores, k=k, labels=np.arange(N_ITEMS))
        assert ours[f"hr_at_{k}"] == pytest.approx(hits, abs=1e-12)


def test_against_sorted_lists(ranks: np.ndarray, scores: np.ndarray, targets: np.ndarray) -> None:
    ours = per_user_metrics(ranks, (5,))
    for user in range(N_USERS):
        best_first = sorted(range(1, N_ITEMS + 1), key=lambda item: -scores[user, item - 1])
        place = best_first.index(targets[user]) + 1
        in_first_five = targets[user] in best_first[:5]
        gain = sum(
            (item == targets[user]) / np.log2(position + 1)
            for position, item in enumerate(best_first[:5], start=1)
        )
        assert ranks[user] == place
        assert ours["hr_at_5"][user] == in_first_five
        assert ours["ndcg_at_5"][user] == pytest.approx(gain)
        assert ours["mrr"][user] == pytest.approx(1 / place)
