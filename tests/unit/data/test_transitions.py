import numpy as np
import pytest

from sicsrec.data.transitions import TransitionCounts
from tests.unit.evaluation.conftest import make_histories, random_histories

N_ITEMS = 7


def dense(counts: TransitionCounts) -> np.ndarray:
    matrix = np.zeros((N_ITEMS, N_ITEMS), dtype=np.int64)
    matrix[counts.pairs // N_ITEMS, counts.pairs % N_ITEMS] = counts.counts
    return matrix


@pytest.mark.parametrize("gap", [1, 2, 3])
def test_a_gap_is_counted_inside_histories_only(gap: int) -> None:
    histories = random_histories(50, N_ITEMS, longest=6, seed=2)
    expected = np.zeros((N_ITEMS, N_ITEMS), dtype=np.int64)
    for row in range(len(histories)):
        items = histories.of_user(row) - 1
        for place in range(len(items) - gap):
            expected[items[place], items[place + gap]] += 1
    found = TransitionCounts.from_histories(histories, N_ITEMS, gap)
    np.testing.assert_array_equal(dense(found), expected)
    np.testing.assert_array_equal(dense(found.reversed()), expected.T)
    assert (np.diff(found.reversed().pairs) > 0).all()


def test_histories_shorter_than_the_gap_count_nothing() -> None:
    found = TransitionCounts.from_histories(make_histories([1, 2], [3], []), N_ITEMS, gap=2)
    assert len(found.pairs) == 0
    rows, columns, counts = found.after(np.array([1, 2], dtype=np.int32))
    assert len(rows) == len(columns) == len(counts) == 0


def test_pairs_of_a_large_catalogue_do_not_overflow() -> None:
    n_items = 3_000_000
    found = TransitionCounts.from_histories(make_histories([n_items, n_items - 1]), n_items)
    for counts, items in (
        (found, (n_items, n_items - 1)),
        (found.reversed(), (n_items - 1, n_items)),
    ):
        rows, columns, times = counts.after(np.array([items[0]], dtype=np.int32))
        assert (rows.tolist(), columns.tolist(), times.tolist()) == ([0], [items[1] - 1], [1])
