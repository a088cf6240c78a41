import numpy as np
import polars as pl
import pytest

from sicsrec.data.schema import PAIRS
from sicsrec.errors import DataError
from sicsrec.training.pair_batches import Batches, Pairs, mark_items
from tests.unit.stage_one import make_catalog

ROWS = [
    ("i0", "i1", ["i4", "i6"], "similarity"),
    ("i2", "i3", [], "similarity"),
    ("i5", None, ["i0"], "similarity"),
    ("i4", "i5", ["i8"], "similarity"),
]


def read(rows=ROWS):
    return Pairs.from_frame(pl.DataFrame(rows, schema=dict(PAIRS), orient="row"), make_catalog())


def test_pairs_are_item_indices_and_none_makes_no_pair():
    pairs = read()
    assert pairs.anchors.tolist() == [1, 3, 5]
    assert pairs.positives.tolist() == [2, 4, 6]
    assert [negatives.tolist() for negatives in pairs.negatives] == [[5, 7], [], [9]]


def test_no_pairs_at_all():
    pairs = read(ROWS[2:3])
    assert len(pairs) == 0
    (batch,) = Batches(pairs, np.array([1, 2, 9], dtype=np.int32), 4).epoch(
        np.random.default_rng(0)
    )
    assert batch.items.tolist() == [1, 2, 9]
    assert batch.own_negatives.shape == (0, 3)


def test_unknown_items_are_an_error():
    with pytest.raises(DataError, match="not in the catalogue"):
        read([("i0", "nobody", [], "similarity")])


def test_a_batch_names_every_item_once():
    pairs = read([("i0", "i1", ["i4"], "s"), ("i1", "i0", ["i4"], "s"), ("i2", "i1", ["i0"], "s")])
    batch = Batches(pairs, np.zeros(0, dtype=np.int32), 8).collate(
        pairs, np.array([10], dtype=np.int32)
    )
    assert batch.items.tolist() == [1, 2, 3, 5, 10]
    assert batch.items[batch.anchors].tolist() == [1, 2, 3]
    assert batch.items[batch.positives].tolist() == [2, 1, 2]
    negatives = [batch.items[row].tolist() for row in batch.own_negatives]
    assert negatives == [[5], [5], [1]]
    # i1 is similar to i0 and i2, in whichever direction the judge said so.
    known = [batch.items[row].tolist() for row in batch.known_positives]
    assert known == [[2], [1, 3], [2]]


def test_an_epoch_holds_every_pair_and_other_item_once():
    rows = [(f"i{n}", f"i{(n + 1) % 9}", [], "s") for n in range(9)]
    pairs = read(rows)
    batches = Batches(pairs, np.array([9, 10], dtype=np.int32), 4)
    assert batches.n_batches == 3
    epoch = list(batches.epoch(np.random.default_rng(0)))
    seen = [
        (int(batch.items[a]), int(batch.items[p]))
        for batch in epoch
        for a, p in zip(batch.anchors, batch.positives, strict=True)
    ]
    expected = list(zip(pairs.anchors.tolist(), pairs.positives.tolist(), strict=True))
    assert sorted(seen) == sorted(expected)
    assert seen != expected
    assert sum(10 in batch.items for batch in epoch) == 1


def test_few_pairs_stay_together_among_many_other_items():
    pairs = read([(f"i{n}", f"i{n + 1}", [], "s") for n in range(5)])
    others = np.arange(7, 27, dtype=np.int32)
    batches = Batches(pairs, others, 3)
    assert batches.n_batches == 7
    epoch = list(batches.epoch(np.random.default_rng(0)))
    assert [len(batch.anchors) for batch in epoch] == [3, 0, 0, 2, 0, 0, 0]
    seen = np.concatenate([np.intersect1d(batch.items, others) for batch in epoch])
    assert sorted(seen.tolist()) == others.tolist()
    named = [int(batch.items[a]) for batch in epoch for a in batch.anchors]
    assert sorted(named) == pairs.anchors.tolist()


def test_the_order_follows_the_seed():
    rows = [(f"i{n}", f"i{(n + 1) % 9}", [], "s") for n in range(9)]
    batches = Batches(read(rows), np.zeros(0, dtype=np.int32), 3)

    def order(seed):
        return [b.items[b.anchors].tolist() for b in batches.epoch(np.random.default_rng(seed))]

    assert order(1) == order(1) != order(2)


def test_held_aside_pairs_are_not_kept_in_either_direction():
    forth = [(f"i{n % 10}", f"i{(n + 1 + n // 10) % 10}", [], "s") for n in range(40)]
    back = [(positive, anchor, [], "s") for anchor, positive, _, _ in forth]
    pairs = read(forth + back + forth[:3])
    kept, aside = pairs.hold_aside(0.05, np.random.default_rng(0))

    def ends(some):
        both = zip(some.anchors.tolist(), some.positives.tolist(), strict=True)
        return {frozenset(pair) for pair in both}

    assert not ends(kept) & ends(aside)
    assert len(ends(aside)) == int(0.05 * len(ends(pairs)))
    assert len(kept) + len(aside) == len(pairs)
    assert len(aside) >= 2 * len(ends(aside))
    assert len(read().hold_aside(0.05, np.random.default_rng(0))[1]) == 0


def test_an_epoch_can_be_entered_anywhere():
    rows = [(f"i{n}", f"i{(n + 1) % 9}", ["i9"], "s") for n in range(9)]
    batches = Batches(read(rows), np.array([10], dtype=np.int32), 2)
    whole = list(batches.epoch(np.random.default_rng(3)))
    rest = list(batches.epoch(np.random.default_rng(3), start=2))
    assert len(rest) == len(whole) - 2
    for one, other in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(one.items, other.items)
        np.testing.assert_array_equal(one.anchors, other.anchors)


def test_marks_are_where_a_row_names_a_column():
    columns = np.array([7, 2, 5])
    marks = mark_items(columns, [np.array([5, 9]), np.array([], dtype=np.int64), np.array([2, 7])])
    assert marks.tolist() == [[False, False, True], [False] * 3, [True, True, False]]
    assert mark_items(columns, []).shape == (0, 3)
    assert mark_items(columns[:0], [np.array([1])]).shape == (1, 0)


@pytest.mark.parametrize(("share", "expected"), [(0.29, 29), (0.57, 57), (0.295, 29), (0.0, 0)])
def test_a_share_is_rounded_down_as_it_is_written(share: float, expected: int):
    items = np.arange(1, 201, dtype=np.int32)
    pairs = Pairs(items[:100], items[100:], (items[:0],) * 100)
    kept, aside = pairs.hold_aside(share, np.random.default_rng(0))
    assert (len(kept), len(aside)) == (100 - expected, expected)
