"""Pairs as item indices, and the batches that alignment trains on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sicsrec.data.catalog import ItemCatalog


@dataclass(frozen=True)
class Pairs:
    """Similar items and, per pair, the items the judge called unrelated, as item indices."""

    anchors: NDArray[np.int32]
    positives: NDArray[np.int32]
    negatives: tuple[NDArray[np.int32], ...]

    @classmethod
    def from_frame(cls, frame: pl.DataFrame, catalog: ItemCatalog) -> "Pairs":
        """Read a pairs table; answers that name no similar item make no pair.

        Raises:
            DataError: if an item is not in the catalogue.
        """
        frame = frame.filter(pl.col("positive_id").is_not_null())
        flat = catalog.indices_of(frame["negative_ids"].explode(empty_as_null=False))
        counts = frame["negative_ids"].list.len().to_numpy()
        return cls(
            catalog.indices_of(frame["anchor_id"]),
            catalog.indices_of(frame["positive_id"]),
            tuple(np.split(flat, np.cumsum(counts)[:-1])) if len(counts) else (),
        )

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.anchors)

    def take(self, rows: NDArray[np.integer]) -> "Pairs":
        """Return some pairs, in the order of ``rows``."""
        negatives = tuple(self.negatives[row] for row in rows)
        return Pairs(self.anchors[rows], self.positives[rows], negatives)

    def hold_aside(self, share: float, rng: np.random.Generator) -> "tuple[Pairs, Pairs]":
        """Return (kept, held aside); the second has ``share`` of the pairs, rounded down."""
        order = rng.permutation(len(self))
        n_aside = int(len(self) * share)
        return self.take(np.sort(order[n_aside:])), self.take(np.sort(order[:n_aside]))


@dataclass(frozen=True)
class Batch:
    """Some pairs over the distinct items they name.

    Rows below refer to ``items``.
    """

    items: NDArray[np.int32]
    """[items] ascending, distinct item indices."""
    anchors: NDArray[np.int64]
    """[pairs] row of each anchor."""
    positives: NDArray[np.int64]
    """[pairs] row of each positive."""
    own_negatives: NDArray[np.bool_]
    """[pairs, items] what the judge called unrelated to the anchor."""
    known_positives: NDArray[np.bool_]
    """[pairs, items] what any training pair joins with the anchor."""


class Batches:
    """Draws the batches of an epoch.

    Args:
        pairs: the training pairs.
        other_items: items in no pair that only the text-image loss can learn from; each comes once
            per epoch, spread over the batches.
        batch_size: pairs in a batch at most.
    """

    def __init__(self, pairs: Pairs, other_items: NDArray[np.int32], batch_size: int) -> None:
        self._pairs = pairs
        self._others = other_items
        self._known: dict[int, set[int]] = {}
        for anchor, positive in zip(pairs.anchors.tolist(), pairs.positives.tolist(), strict=True):
            # Similarity goes both ways, so neither may be pushed off the other.
            self._known.setdefault(anchor, set()).add(positive)
            self._known.setdefault(positive, set()).add(anchor)
        self.n_batches = max(1, -(-max(len(pairs), len(other_items)) // batch_size))

    def epoch(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield all pairs and other items once, in an order drawn from ``rng``."""
        rows = np.array_split(rng.permutation(len(self._pairs)), self.n_batches)
        others = np.array_split(rng.permutation(self._others), self.n_batches)
        for some_rows, some_others in zip(rows, others, strict=True):
            yield self.collate(self._pairs.take(some_rows), some_others)

    def collate(self, pairs: Pairs, others: NDArray[np.int32]) -> Batch:
        """Gather pairs and other items over their distinct items."""
        named = np.concatenate([pairs.anchors, pairs.positives, *pairs.negatives, others])
        items = np.unique(named).astype(np.int32)
        row_of = {item: row for row, item in enumerate(items.tolist())}
        known = [self._known.get(anchor, set()) for anchor in pairs.anchors.tolist()]
        return Batch(
            items,
            np.searchsorted(items, pairs.anchors),
            np.searchsorted(items, pairs.positives),
            _mark(row_of, [row.tolist() for row in pairs.negatives]),
            _mark(row_of, [list(row) for row in known]),
        )


def _mark(row_of: dict[int, int], items_of_pairs: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
    """Return [pairs, items], True where the pair names the item and the batch has it."""
    marks = np.zeros((len(items_of_pairs), len(row_of)), dtype=np.bool_)
    for pair, named in enumerate(items_of_pairs):
        marks[pair, [row_of[item] for item in named if item in row_of]] = True
    return marks
