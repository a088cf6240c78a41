import numpy as np
import pytest

from sicsrec.evaluation.beyond_accuracy import (
    describe_lists,
    gini,
    group_shares,
    popularity_groups,
    self_information,
)


def test_figures_of_lists_by_hand() -> None:
    counts = np.array([6, 1, 0, 0, 0])
    lists = np.array([[1, 2], [1, 0], [1, 3]], dtype=np.int32)
    found = describe_lists(lists, counts, head_share=0.2)
    assert found.coverage == pytest.approx(3 / 5)
    assert found.head_share == pytest.approx(3 / 5)
    bits = [-np.log2(7 / 12), -np.log2(2 / 12), -np.log2(1 / 12)]
    assert found.novelty == pytest.approx((3 * bits[0] + bits[1] + bits[2]) / 5)
    # Sorted times named: 0 0 1 1 3; sum of (2 r - n - 1) x is 0 + 0 + 0 + 2 + 12.
    assert found.gini == pytest.approx(14 / (5 * 5))


def test_lists_without_items_are_refused() -> None:
    with pytest.raises(ValueError, match="no recommendations"):
        describe_lists(np.zeros((2, 3), dtype=np.int32), np.array([1, 2]), 0.2)


def test_gini_does_not_depend_on_the_order() -> None:
    values = np.array([5, 0, 2, 2])
    assert gini(values) == pytest.approx(gini(values[::-1].copy()))


def test_unwatched_items_carry_a_finite_surprise() -> None:
    bits = self_information(np.array([7, 0]))
    assert np.isfinite(bits).all()
    assert bits[1] > bits[0]


def test_groups_are_equally_large_and_shares_add_up() -> None:
    counts = np.arange(40)
    groups = popularity_groups(counts)
    assert np.bincount(groups).tolist() == [4] * 10
    assert groups[39] == 0
    assert groups[0] == 9
    shares = group_shares(np.array([40, 40, 1, 0], dtype=np.int32), groups)
    assert shares.tolist() == pytest.approx([2 / 3, *[0.0] * 8, 1 / 3])
