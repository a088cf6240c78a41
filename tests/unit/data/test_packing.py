"""Histories cut into windows, laid into rows, shared out: nothing is lost, doubled or mixed up."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sicsrec.data.packing import (
    PackedBatch,
    assign_rows,
    history_windows,
    last_tokens,
    pack,
    training_batches,
    training_windows,
)
from sicsrec.data.sequences import Histories
from tests.unit.evaluation.conftest import make_histories

lengths_of_histories = st.lists(st.integers(0, 17), max_size=12)


def numbered(lengths: list[int]) -> Histories:
    """Histories in which every place has a number of its own, from 1 on."""
    ends = np.cumsum(lengths, dtype=np.int64)
    pairs = zip(ends, lengths, strict=True)
    return make_histories(*(range(end - length + 1, end + 1) for end, length in pairs))


def sequences_of(batch: PackedBatch) -> list[tuple[list[int], list[int], list[int]]]:
    """Items, positions and targets of every sequence of a batch."""
    found = []
    for row, segments in enumerate(batch.segments):
        for segment in range(1, segments.max() + 1):
            columns = (batch.items, batch.positions, batch.targets)
            found.append(tuple(column[row][segments == segment].tolist() for column in columns))
    return found


@given(lengths_of_histories, st.integers(1, 6), st.integers(0, 99))
def test_every_item_but_the_first_is_a_target_once_behind_those_before_it(
    lengths: list[int], longest: int, seed: int
) -> None:
    histories = numbered(lengths)
    rng = np.random.default_rng(seed)
    sequences = [
        sequence
        for batch in training_batches(histories, longest, 7, rng)
        for sequence in sequences_of(batch)
    ]
    for items, positions, targets in sequences:
        assert 1 <= len(items) <= longest
        assert positions == list(range(len(items)))
        assert targets == [item + 1 for item in items]
        assert items == list(range(items[0], items[0] + len(items)))
    found = sorted(target for _, _, targets in sequences for target in targets)
    expected = [n for row in range(len(histories)) for n in histories.of_user(row)[1:].tolist()]
    assert found == expected


def test_short_histories_stay_whole_and_the_first_cut_of_long_ones_may_be_anywhere() -> None:
    histories = numbered([5, 4, 9])
    cuts = []
    for seed in range(60):
        windows = training_windows(histories, 4, np.random.default_rng(seed))
        lengths = windows.lengths.tolist()
        assert lengths[:2] == [4, 3]
        cuts.append(lengths[2])
        assert windows.starts.tolist()[:3] == [0, 5, 9]
        assert lengths[3:-1] == [4] * len(lengths[3:-1])
    assert set(cuts) == {1, 2, 3, 4}


def test_batches_are_mixed_anew_by_every_generator_and_about_as_large_as_asked_for() -> None:
    histories = numbered([3] * 50)

    def order(seed: int) -> list[list[int]]:
        batches = training_batches(histories, 4, 10, np.random.default_rng(seed))
        return [batch.targets[batch.targets > 0].tolist() for batch in batches]

    assert order(1) == order(1) != order(2)
    sizes = [len(targets) for targets in order(1)]
    assert len(sizes) == 10
    assert max(sizes) <= 12
    flat = [target for targets in order(1) for target in targets]
    assert flat != sorted(flat)


def test_batches_can_be_entered_anywhere() -> None:
    histories = numbered([6] * 20)
    whole = list(training_batches(histories, 4, 10, np.random.default_rng(0)))
    rest = list(training_batches(histories, 4, 10, np.random.default_rng(0), start=3))
    assert len(rest) == len(whole) - 3
    for one, other in zip(whole[3:], rest, strict=True):
        np.testing.assert_array_equal(one.items, other.items)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=20))
def test_rows_are_filled_one_after_the_other(lengths: list[int]) -> None:
    rows, columns = assign_rows(np.array(lengths), 6)
    row, filled = 0, 0
    for length, found in zip(lengths, zip(rows, columns, strict=True), strict=True):
        if filled + length > 6:
            row, filled = row + 1, 0
        assert found == (row, filled)
        filled += length


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_every_row_goes_to_one_process_and_who_has_none_gets_padding(size: int) -> None:
    histories = numbered([4] * 6)
    (batch,) = training_batches(histories, 6, 1000, np.random.default_rng(0))
    assert len(batch.items) == 3
    shares = [batch.share(rank, size) for rank in range(size)]
    assert all(len(share.items) >= 1 for share in shares)
    found = Counter(str(sequence) for share in shares for sequence in sequences_of(share))
    assert found == Counter(map(str, sequences_of(batch)))
    for share in shares[3:]:
        assert not any(column.any() for column in (share.items, share.segments, share.targets))


def test_of_long_histories_the_most_recent_items_are_read() -> None:
    histories = numbered([2, 9, 4, 5])
    windows = history_windows(histories, 4)
    batch = pack(histories.items, windows, 4, with_targets=False)
    read = [items for items, _, _ in sequences_of(batch)]
    assert read == [histories.of_user(row)[-4:].tolist() for row in range(4)]
    assert not batch.targets.any()
    last = batch.items.ravel()[last_tokens(windows, 4)]
    assert last.tolist() == histories.nth_last(1).tolist()
