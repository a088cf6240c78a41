"""Many short sequences side by side in few rows, so that almost nothing is padding.

Watch histories are short (a mean of three to seven items in the paper's datasets) and a batch of
them padded to the longest is mostly padding. Here whole sequences are laid one after the other into
rows of a fixed length; ``segments`` tells which tokens belong together, and attention never crosses
from one segment to another. The sequences of a batch stay randomly mixed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sicsrec.data.sequences import Histories, places_within

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class PackedBatch:
    """Sequences packed into R rows of L tokens; all arrays are [R, L]."""

    items: IntArray
    """Item indices; 0 is padding."""
    positions: IntArray
    """Place of the token in its own sequence, from 0."""
    segments: IntArray
    """Number of the sequence within its row, from 1; 0 is padding."""
    targets: IntArray
    """Item to predict at this token; 0 where there is none."""

    def share(self, rank: int, size: int) -> "PackedBatch":
        """Return every ``size``-th row from row ``rank`` on; a row of padding when there is none.

        Over all ranks each row comes once; padding has no target, so it counts nowhere.
        """
        columns = (self.items, self.positions, self.segments, self.targets)
        if rank >= len(self.items):
            return PackedBatch(*(np.zeros_like(column[:1]) for column in columns))
        return PackedBatch(*(column[rank::size] for column in columns))


@dataclass(frozen=True)
class Windows:
    """Slices ``items[starts:starts + lengths]`` of a flat array of items."""

    starts: IntArray
    lengths: IntArray

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self.starts)

    def take(self, rows: IntArray) -> "Windows":
        """Return some slices in the order of ``rows``."""
        return Windows(self.starts[rows], self.lengths[rows])


def training_windows(histories: Histories, max_length: int, rng: np.random.Generator) -> Windows:
    """Cut training histories into windows so that every item but the first is a target once.

    A window of ``n`` inputs reads ``n + 1`` items: input t predicts item t + 1. Histories with at
    most ``max_length + 1`` items are one window. Longer ones are cut into windows of ``max_length``
    inputs; the place of the first cut is drawn anew each time, so over the epochs a target is seen
    with short and with long contexts.

    Args:
        histories: training histories; those of fewer than two items have no target and no window.
        max_length: most inputs in a window.
        rng: draws the first cut of long histories.

    Returns:
        Windows over ``histories.items``; lengths count inputs.
    """
    n_targets = histories.lengths - 1
    rows = np.flatnonzero(n_targets > 0)
    n_targets, offsets = n_targets[rows], histories.offsets[:-1][rows]
    is_long = n_targets > max_length
    first = np.where(is_long, rng.integers(1, max_length + 1, size=len(rows)), n_targets)
    n_windows = 1 + -(-(n_targets - first) // max_length)
    owner = np.repeat(np.arange(len(rows)), n_windows)
    number = places_within(n_windows)
    begin = np.where(number == 0, 0, first[owner] + (number - 1) * max_length)
    end = np.minimum(first[owner] + number * max_length, n_targets[owner])
    return Windows((offsets[owner] + begin).astype(np.int64), (end - begin).astype(np.int64))


def assign_rows(lengths: IntArray, row_length: int) -> tuple[IntArray, IntArray]:
    """Lay sequences one after the other into rows, a new row whenever the next does not fit.

    Args:
        lengths: [S], each in 1..row_length.
        row_length: tokens in a row.

    Returns:
        For every sequence its row and its first column, both [S].

    Example:
        >>> rows, columns = assign_rows(np.array([3, 2, 4, 1]), 5)
        >>> rows.tolist(), columns.tolist()
        ([0, 0, 1, 1], [0, 3, 0, 4])
    """
    ends = np.cumsum(lengths)
    rows = np.zeros(len(lengths), dtype=np.int64)
    begin, filled = 0, 0
    firsts = []
    while begin < len(lengths):
        firsts.append(begin)
        begin = int(np.searchsorted(ends, filled + row_length, side="right"))
        filled = int(ends[begin - 1])
    rows[firsts[1:]] = 1
    rows = np.cumsum(rows)
    starts = ends - lengths
    return rows, starts - starts[np.asarray(firsts, dtype=np.int64)][rows]


def pack(
    items: NDArray[np.int32], windows: Windows, row_length: int, *, with_targets: bool
) -> PackedBatch:
    """Pack windows in their order into rows.

    Args:
        items: flat array of item indices that the windows point into.
        windows: slices, each of 1..row_length inputs.
        row_length: tokens in a row.
        with_targets: whether the item after each input is its target; it must then exist.
    """
    rows, columns = assign_rows(windows.lengths, row_length)
    n_rows = int(rows[-1]) + 1 if len(rows) else 0
    first_of_row = np.flatnonzero(np.diff(rows, prepend=-1))
    segment = np.arange(len(rows)) - first_of_row[rows] + 1
    within = places_within(windows.lengths)
    flat = np.repeat(rows * row_length + columns, windows.lengths) + within
    source = np.repeat(windows.starts, windows.lengths) + within

    def scatter(values: NDArray[np.integer]) -> IntArray:
        filled = np.zeros(n_rows * row_length, dtype=np.int64)
        filled[flat] = values
        return filled.reshape(n_rows, row_length)

    targets = scatter(items[source + 1]) if with_targets else scatter(np.zeros_like(flat))
    return PackedBatch(
        scatter(items[source]),
        scatter(within),
        scatter(np.repeat(segment, windows.lengths)),
        targets,
    )


def training_batches(
    histories: Histories,
    max_length: int,
    batch_targets: int,
    rng: np.random.Generator,
    start: int = 0,
) -> Iterator[PackedBatch]:
    """Yield one epoch of packed batches in random order, about ``batch_targets`` targets each.

    Args:
        histories: training histories.
        max_length: tokens in a row.
        batch_targets: training targets in a batch, about.
        rng: draws windows and order.
        start: batches at the beginning to pass over.
    """
    windows = training_windows(histories, max_length, rng)
    windows = windows.take(rng.permutation(len(windows)))
    ends = np.cumsum(windows.lengths)
    total = int(ends[-1]) if len(ends) else 0
    n_batches = max(1, round(total / batch_targets))
    bounds = np.searchsorted(ends, np.linspace(0, total, n_batches + 1)[1:-1])
    parts = [rows for rows in np.split(np.arange(len(windows)), bounds) if len(rows)]
    for rows in parts[start:]:
        yield pack(histories.items, windows.take(rows), max_length, with_targets=True)


def history_windows(histories: Histories, max_length: int) -> Windows:
    """Return the most recent ``max_length`` items of every user; no history may be empty."""
    lengths = np.minimum(histories.lengths, max_length)
    return Windows(histories.offsets[1:] - lengths, lengths)


def last_tokens(windows: Windows, row_length: int) -> IntArray:
    """Return where the last token of each packed window lies, as an index into the flat rows."""
    rows, columns = assign_rows(windows.lengths, row_length)
    return rows * row_length + columns + windows.lengths - 1
