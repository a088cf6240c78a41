"""How often one item came a given number of places after another, counted over histories."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sicsrec.data.sequences import Histories, places_within


@dataclass(frozen=True)
class TransitionCounts:
    """How often item b came after item a, stored without the pairs that never occurred."""

    n_items: int
    pairs: NDArray[np.int64]
    """[P], ascending and distinct: ``(a - 1) * N + (b - 1)``."""
    counts: NDArray[np.int64]
    """[P], occurrences of each pair, at least 1."""

    @classmethod
    def from_histories(cls, histories: Histories, n_items: int, gap: int = 1) -> "TransitionCounts":
        """Count items ``gap`` places apart within every history, never across two users.

        Args:
            histories: any histories.
            n_items: N.
            gap: places between a and b, at least 1; 1 counts neighbours.
        """
        owner = histories.owners
        before = np.flatnonzero(owner[:-gap] == owner[gap:])
        first, second = histories.items[before], histories.items[before + gap]
        codes = (first.astype(np.int64) - 1) * n_items + second - 1
        pairs, counts = np.unique(codes, return_counts=True)
        return cls(n_items, pairs, counts.astype(np.int64))

    def reversed(self) -> "TransitionCounts":
        """Return the same counts with before and after exchanged."""
        codes = self.pairs % self.n_items * self.n_items + self.pairs // self.n_items
        order = np.argsort(codes)
        return TransitionCounts(self.n_items, codes[order], self.counts[order])

    def after(
        self, items: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return what followed each of some items: row of ``items``, column b - 1, count."""
        first = (items.astype(np.int64) - 1) * self.n_items
        starts = np.searchsorted(self.pairs, first)
        lengths = np.searchsorted(self.pairs, first + self.n_items) - starts
        rows = np.repeat(np.arange(len(items)), lengths)
        entries = starts[rows] + places_within(lengths)
        return rows, self.pairs[entries] % self.n_items, self.counts[entries]
