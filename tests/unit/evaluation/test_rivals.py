import itertools
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from sicsrec.data.sequences import Histories, item_counts
from sicsrec.data.transitions import TransitionCounts
from sicsrec.evaluation.metrics import mean_metrics
from sicsrec.evaluation.ranking import RankingSet, Scorer, rank_targets, recommend
from sicsrec.evaluation.rivals import (
    make_popularity,
    make_transitions,
    make_transitions_with_valid,
)
from tests.unit.evaluation.conftest import make_histories, random_histories

REPOSITORY = Path(__file__).parents[3]


def test_popularity_counts_and_is_the_same_for_everybody() -> None:
    train = make_histories([1, 2, 2], [2, 4])
    scores = make_popularity(train, 5).score(make_histories([1], [], [3, 2]))
    assert scores.tolist() == [[1, 3, 0, 1, 0]] * 3


def test_transitions_by_hand() -> None:
    # 1 -> 2 twice, 2 -> 1 once, 2 -> 3 once; never 3 -> 1 or 2 -> 2 across users.
    train = make_histories([1, 2, 1, 2], [], [2, 3])
    scorer = make_transitions(train, 4)
    scores = scorer.score(make_histories([3, 1], [2], [], [4])).numpy()
    back_off = np.array([2, 3, 1, 0]) / 4
    np.testing.assert_allclose(scores[0], np.array([0, 2, 0, 0]) + back_off)
    np.testing.assert_allclose(scores[1], np.array([1, 0, 1, 0]) + back_off)
    np.testing.assert_allclose(scores[2], back_off)
    np.testing.assert_allclose(scores[3], back_off)


def test_transitions_equal_a_dense_count() -> None:
    n_items = 12
    train = random_histories(80, n_items, longest=9, seed=4)
    dense = np.zeros((n_items, n_items))
    for row in range(len(train)):
        items = train.of_user(row) - 1
        for before, after in itertools.pairwise(items):
            dense[before, after] += 1
    popularity = item_counts(train, n_items)
    users = random_histories(30, n_items, longest=3, seed=5)
    scores = make_transitions(train, n_items).score(users).numpy()
    for row in range(len(users)):
        items = users.of_user(row)
        expected = dense[items[-1] - 1] if len(items) else np.zeros(n_items)
        np.testing.assert_allclose(scores[row], expected + popularity / (popularity.max() + 1))


def test_popularity_never_outweighs_one_transition() -> None:
    train = make_histories(*[[3] * 50], [1, 2])
    items, _ = recommend(make_transitions(train, 3), make_histories([1]), 3, remove_seen=False)
    assert items.tolist() == [[2, 3, 1]]


def test_counts_of_several_histories_add_up() -> None:
    total = TransitionCounts.from_histories(make_histories([1, 2, 3], [1, 2], [3, 3]), 3)
    rows, columns, counts = total.after(np.array([1, 2, 3], dtype=np.int32))
    assert list(zip(rows, columns, counts, strict=True)) == [(0, 1, 2), (1, 2, 1), (2, 2, 1)]


def test_counts_of_nothing() -> None:
    scores = make_transitions(make_histories([], []), 3).score(make_histories([1], []))
    assert scores.tolist() == [[0.0] * 3] * 2


def test_validation_adds_one_step_per_user_and_its_targets() -> None:
    train = make_histories([1, 2], [3], [])
    scorer = make_transitions_with_valid(train, make_histories([3], [1], [2]), 3)
    scores = scorer.score(make_histories([2], [3], [1], [])).numpy()
    back_off = np.array([2, 2, 2]) / 3
    np.testing.assert_allclose(scores[0], np.array([0, 0, 1]) + back_off)
    np.testing.assert_allclose(scores[1], np.array([1, 0, 0]) + back_off)
    np.testing.assert_allclose(scores[2], np.array([0, 1, 0]) + back_off)
    np.testing.assert_allclose(scores[3], back_off)
    assert scorer.name == "transitions (train + valid)"


@pytest.fixture(scope="module")
def food() -> tuple[Histories, Histories, RankingSet, int]:
    """Leave-one-out split of Bili_Food, straight from its file."""
    root = Path(os.environ.get("SICSREC_TEST_DATA", REPOSITORY / "../shared/data"))
    path = root / "ninerec/Bili_Food/sequential_data.txt"
    if not path.exists():
        pytest.skip(f"needs {path}; set SICSREC_TEST_DATA to the folder of the real data")
    lines = path.read_text(encoding="utf-8").splitlines()
    sequences = [np.array(line.split()[1:], dtype=np.int32) + 1 for line in lines]
    users = pl.Series("user_id", [line.split()[0] for line in lines])

    def histories(cut: int) -> Histories:
        parts = [sequence[: len(sequence) - cut] for sequence in sequences]
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        return Histories(users, offsets.astype(np.int64), np.concatenate(parts))

    valid_items = np.array([sequence[-2] for sequence in sequences], dtype=np.int32)
    test_targets = np.array([sequence[-1] for sequence in sequences], dtype=np.int32)
    n_items = max(int(sequence.max()) for sequence in sequences)
    return (
        histories(2),
        Histories(users, np.arange(len(users) + 1), valid_items),
        RankingSet(histories(1), test_targets),
        n_items,
    )


def ranks_with_ties_for_the_target(scorer: Scorer, test: RankingSet) -> np.ndarray:
    scores = scorer.score(test.histories).numpy()
    own = scores[np.arange(len(test)), test.targets - 1][:, None]
    return 1 + (scores > own).sum(axis=1)


# The figures known for this data (HR@5, HR@10, NDCG@5, NDCG@10) let a tie count for the target;
# ours let it count against it, and are lower by what ties are worth.
FOOD = {
    "popularity": ([0.0076, 0.0200, 0.0044, 0.0084], [0.0076, 0.0156, 0.0044, 0.0070]),
    "transitions": ([0.1025, 0.1348, 0.0748, 0.0852], [0.1022, 0.1342, 0.0746, 0.0849]),
    "transitions (train + valid)": (
        [0.1299, 0.1675, 0.0922, 0.1043],
        [0.1289, 0.1663, 0.0917, 0.1037],
    ),
}


@pytest.mark.parametrize("name", list(FOOD))
def test_figures_on_bili_food(
    name: str, food: tuple[Histories, Histories, RankingSet, int]
) -> None:
    train, valid, test, n_items = food
    assert (len(test), n_items) == (6549, 1579)
    scorers: dict[str, Scorer] = {
        "popularity": make_popularity(train, n_items),
        "transitions": make_transitions(train, n_items),
        "transitions (train + valid)": make_transitions_with_valid(train, valid, n_items),
    }
    known, ours = FOOD[name]
    lenient = mean_metrics(ranks_with_ties_for_the_target(scorers[name], test), (5, 10))
    names = ["hr_at_5", "hr_at_10", "ndcg_at_5", "ndcg_at_10"]
    # Two users of 6,549 are 0.0003.
    assert [lenient[metric] for metric in names] == pytest.approx(known, abs=0.0003)
    ranks = rank_targets(scorers[name], test.histories, test.targets, remove_seen=False)
    strict = mean_metrics(ranks, (5, 10))
    assert [strict[metric] for metric in names] == pytest.approx(ours, abs=0.00006)


def test_rivals_are_scorers() -> None:
    train = make_histories([1, 2])
    for scorer in (make_popularity(train, 2), make_transitions(train, 2)):
        assert isinstance(scorer, Scorer)
        assert scorer.score(train).dtype == torch.float64
