import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sicsrec.data.split import HeldOut
from sicsrec.errors import DataError, TrainingDivergedError
from sicsrec.evaluation import ranking
from sicsrec.evaluation.ranking import RankingSet, rank_targets, recommend
from tests.unit.evaluation.conftest import (
    Factorised,
    FixedScores,
    make_catalog,
    make_histories,
    random_histories,
)


def int32(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def test_ranks_by_hand() -> None:
    scorer = FixedScores(torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1], [0.0, 1.0, 2.0]]))
    histories = make_histories([2], [], [1, 1])
    ranks = rank_targets(scorer, histories, int32(3, 1, 1), remove_seen=False)
    assert ranks.tolist() == [2, 1, 3]


def test_seen_items_leave_the_ranking_but_the_target_stays() -> None:
    scorer = FixedScores(torch.tensor([[0.1, 0.9, 0.5, 0.7], [4.0, 3.0, 2.0, 1.0]]))
    histories = make_histories([2, 2, 1], [3, 1, 3])
    ranks = rank_targets(scorer, histories, int32(3, 3), remove_seen=True)
    # User 0: items 2 (twice in the history) and 1 go, item 4 stays above. User 1: the target was
    # watched before; item 1 goes, item 2 stays above, the target itself is ranked.
    assert ranks.tolist() == [2, 2]


def test_ties_count_against_the_target() -> None:
    scorer = FixedScores(torch.zeros(3, 7))
    ranks = rank_targets(scorer, make_histories([], [1], [2]), int32(1, 4, 7), remove_seen=False)
    assert ranks.tolist() == [7, 7, 7]


@pytest.mark.parametrize("remove_seen", [False, True])
@pytest.mark.parametrize("block_users", [1, 7, 1000])
def test_equals_a_loop_over_users_and_items(remove_seen: bool, block_users: int) -> None:
    n_users, n_items = 40, 23
    rng = np.random.default_rng(1)
    histories = random_histories(n_users, n_items, longest=9, seed=1)
    targets = rng.integers(1, n_items + 1, n_users).astype(np.int32)
    # Few distinct values: many ties.
    scores = rng.integers(0, 6, (n_users, n_items)).astype(np.float32)
    expected = []
    for row in range(n_users):
        seen = set(histories.of_user(row).tolist()) if remove_seen else set()
        rivals = [i for i in range(1, n_items + 1) if i != targets[row] and i not in seen]
        own = scores[row, targets[row] - 1]
        expected.append(1 + sum(scores[row, i - 1] >= own for i in rivals))
    scorer = FixedScores(torch.from_numpy(scores))
    ranks = rank_targets(
        scorer, histories, targets, remove_seen=remove_seen, block_users=block_users
    )
    assert ranks.tolist() == expected
    assert scorer.largest_block == min(block_users, n_users)


def test_advance_is_told_every_user_once() -> None:
    told: list[int] = []
    histories = random_histories(10, 5, longest=3, seed=0)
    targets = np.ones(10, dtype=np.int32)
    scorer = FixedScores(torch.zeros(10, 5))
    rank_targets(scorer, histories, targets, remove_seen=False, block_users=4, advance=told.append)
    assert told == [4, 4, 2]


def test_no_users_give_no_ranks() -> None:
    nobody = make_histories()
    assert len(rank_targets(FixedScores(torch.zeros(0, 3)), nobody, int32(), remove_seen=True)) == 0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_no_numbers_name_the_model(bad: float) -> None:
    scores = torch.zeros(2, 3)
    scores[1, 2] = bad
    histories = make_histories([1], [2])
    scorer = FixedScores(scores, name="ID encoder")
    with pytest.raises(TrainingDivergedError, match="ID encoder"):
        rank_targets(scorer, histories, int32(1, 1), remove_seen=False)
    with pytest.raises(TrainingDivergedError, match="ID encoder"):
        recommend(scorer, histories, 2, remove_seen=True)


def test_scorers_without_a_name_are_called_by_their_class() -> None:
    scorer = Factorised(torch.full((3, 2), torch.nan))
    with pytest.raises(TrainingDivergedError, match="Factorised"):
        rank_targets(scorer, make_histories([1]), int32(1), remove_seen=False)


def test_a_target_per_user_is_required() -> None:
    scorer = FixedScores(torch.zeros(2, 3))
    with pytest.raises(DataError, match="2 users but 1 targets"):
        rank_targets(scorer, make_histories([1], [2]), int32(1), remove_seen=False)


@pytest.mark.parametrize("target", [0, 4])
def test_padding_and_unknown_items_are_no_targets(target: int) -> None:
    with pytest.raises(DataError, match=r"1\.\.3"):
        rank_targets(
            FixedScores(torch.zeros(1, 3)), make_histories([1]), int32(target), remove_seen=False
        )


def test_recommendations_by_hand() -> None:
    scorer = FixedScores(torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.4]]))
    items, scores = recommend(scorer, make_histories([2], []), 2, remove_seen=True)
    assert items.tolist() == [[3, 1], [3, 1]]
    np.testing.assert_allclose(scores, [[0.5, 0.1], [0.4, 0.3]], rtol=1e-6)


def test_too_few_items_are_padded() -> None:
    scorer = FixedScores(torch.tensor([[0.1, 0.9, 0.5]]))
    items, scores = recommend(scorer, make_histories([2, 3]), 5, remove_seen=True)
    assert items.tolist() == [[1, 0, 0]]
    assert np.isneginf(scores[0, 1:]).all()


def test_more_than_all_items_take_no_more_memory() -> None:
    scorer = FixedScores(torch.tensor([[0.1, 0.9, 0.5]]))
    items, scores = recommend(scorer, make_histories([2]), 10**12, remove_seen=False)
    assert items.tolist() == [[2, 3, 1]]
    assert scores.shape == (1, 3)


def test_nobody_gets_nothing() -> None:
    scorer = FixedScores(torch.zeros(0, 3))
    items, scores = recommend(scorer, make_histories(), 10**12, remove_seen=False)
    assert len(items) == len(scores) == 0


def test_removing_seen_items_leaves_the_scorers_memory_alone() -> None:
    table = torch.tensor([0.3, 0.2, 0.1])

    class Popular:
        def score(self, histories):
            return table.expand(len(histories), 3)

    items, _ = recommend(Popular(), make_histories([1], [2]), 1, remove_seen=True)
    assert items.tolist() == [[2], [1]]
    assert table.tolist() == pytest.approx([0.3, 0.2, 0.1])


@settings(max_examples=60)
@given(
    n_users=st.integers(1, 9),
    n_items=st.integers(1, 12),
    k=st.integers(1, 15),
    remove_seen=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_recommendations_equal_a_full_sort(
    n_users: int, n_items: int, k: int, remove_seen: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    histories = random_histories(n_users, n_items, longest=5, seed=seed)
    scores = rng.integers(0, 4, (n_users, n_items)).astype(np.float32)
    items, _ = recommend(
        FixedScores(torch.from_numpy(scores)), histories, k, remove_seen=remove_seen, block_users=4
    )
    for row in range(n_users):
        seen = set(histories.of_user(row).tolist()) if remove_seen else set()
        allowed = [i for i in range(1, n_items + 1) if i not in seen]
        expected = sorted(allowed, key=lambda i: (-scores[row, i - 1], i))[:k]
        assert items[row].tolist() == expected + [0] * (min(k, n_items) - len(expected))


def test_block_size_does_not_change_the_outcome() -> None:
    torch.manual_seed(0)
    scorer = Factorised(torch.randint(-3, 4, (30, 4)).float())
    histories = random_histories(50, 30, longest=6, seed=3)
    one_by_one = recommend(scorer, histories, 5, remove_seen=True, block_users=1)
    at_once = recommend(scorer, histories, 5, remove_seen=True, block_users=50)
    np.testing.assert_array_equal(one_by_one[0], at_once[0])
    np.testing.assert_array_equal(one_by_one[1], at_once[1])


@pytest.mark.parametrize(
    ("device", "n_items", "users"),
    [
        ("cpu", 1_000, 256),
        ("cuda", 1_000, 4_096),
        ("cuda", 200_000, 1_342),
        ("cuda", 10_000_000, 256),
    ],
)
def test_a_gpu_scores_more_users_at_once_where_they_fit(
    device: str, n_items: int, users: int
) -> None:
    scorer = FixedScores(torch.zeros(2, 3))
    scorer.device, scorer.n_items = torch.device(device), n_items
    assert ranking._block_users(scorer) == users
    assert ranking._block_users(FixedScores(torch.zeros(2, 3))) == 256


@pytest.mark.parametrize("at_once", [1, 23, 70])
def test_scores_compared_a_few_users_at_a_time_give_the_same(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    rng = np.random.default_rng(2)
    histories = random_histories(40, 23, longest=9, seed=2)
    targets = rng.integers(1, 24, 40).astype(np.int32)
    scorer = FixedScores(torch.from_numpy(rng.integers(0, 6, (40, 23)).astype(np.float32)))

    def rank_and_recommend() -> tuple[list[int], list[list[int]]]:
        ranks = rank_targets(scorer, histories, targets, remove_seen=True)
        return ranks.tolist(), recommend(scorer, histories, 4, remove_seen=True)[0].tolist()

    expected = rank_and_recommend()
    monkeypatch.setattr(ranking, "_COMPARED_AT_ONCE", at_once)
    assert rank_and_recommend() == expected


def test_k_must_be_positive() -> None:
    with pytest.raises(DataError, match="at least 1"):
        recommend(FixedScores(torch.zeros(1, 3)), make_histories([1]), 0, remove_seen=False)


def test_ranking_sets_join_context_and_target_by_user() -> None:
    context = pl.DataFrame(
        {
            "user_id": ["c", "a", "a"],
            "item_id": ["z", "y", "x"],
            "timestamp": pl.Series([None] * 3, dtype=pl.Int64),
            "position": pl.Series([0, 1, 0], dtype=pl.Int32),
        }
    )
    targets = pl.DataFrame(
        {
            "user_id": ["a", "b", "c"],
            "item_id": ["z", "x", "y"],
            "timestamp": pl.Series([None] * 3, dtype=pl.Int64),
        }
    )
    ranking_set = RankingSet.from_held_out(HeldOut(context, targets), make_catalog("x", "y", "z"))
    assert len(ranking_set) == 3
    assert [ranking_set.histories.of_user(row).tolist() for row in range(3)] == [[1, 2], [], [3]]
    assert ranking_set.targets.tolist() == [3, 1, 2]


def test_two_targets_of_one_user_are_refused() -> None:
    targets = pl.DataFrame(
        {"user_id": ["a", "a"], "item_id": ["x", "y"], "timestamp": [1, 2]},
        schema_overrides={"timestamp": pl.Int64},
    )
    context = pl.DataFrame(
        schema={
            "user_id": pl.String,
            "item_id": pl.String,
            "timestamp": pl.Int64,
            "position": pl.Int32,
        }
    )
    with pytest.raises(DataError, match="more than one target"):
        RankingSet.from_held_out(HeldOut(context, targets), make_catalog("x", "y"))
