import numpy as np

from sicsrec.evaluation.cohorts import LABELS, find_cohorts, head_items
from sicsrec.evaluation.ranking import RankingSet
from tests.unit.evaluation.conftest import make_histories


def test_head_is_the_most_watched_share() -> None:
    counts = np.array([1, 9, 0, 5, 5])
    assert np.flatnonzero(head_items(counts, 0.2)).tolist() == [1]
    assert np.flatnonzero(head_items(counts, 0.4)).tolist() == [1, 3]  # a tie: the lower index
    assert np.flatnonzero(head_items(counts, 0.41)).tolist() == [1, 3, 4]  # rounded up
    assert not head_items(counts, 0.0).any()
    assert head_items(np.ones(100, dtype=np.int64), 0.07).sum() == 7  # 0.07 * 100 > 7


def test_items_never_watched_are_no_head() -> None:
    assert head_items(np.array([0, 2, 0]), 1.0).tolist() == [False, True, False]


def test_cohorts_by_hand() -> None:
    counts = np.array([9, 1, 0, 4])
    ranking_set = RankingSet(
        make_histories([1, 2], [1, 2, 4], [], [4]), np.array([1, 2, 3, 4], dtype=np.int32)
    )
    cohorts = find_cohorts(ranking_set, counts, head_share=0.25, short_history=2)
    assert {name: np.flatnonzero(mask).tolist() for name, mask in cohorts.items()} == {
        "warm_target": [0, 1, 3],
        "cold_target": [2],
        "head_target": [0],
        "tail_target": [1, 2, 3],
        "short_history": [0, 2, 3],
        "long_history": [1],
    }
    assert set(cohorts) == set(LABELS)
