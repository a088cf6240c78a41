"""Pairs as item indices, and the batches that alignment trains on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sicsrec.data.catalog import ItemCatalog

PAIR_TERMS = {"text": "t2t", "image": "v2v"}
"""Modality to the name of the contrastive term between the two items of a pair."""


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
        """Return (kept, held aside).

        The second has ``share`` of the pairs of items, rounded down. A pair of items goes as a
        whole, in whichever direction and however often it was found: what is asked about the one
        would else be told by the other.
        """
        both = np.stack([self.anchors, self.positives], axis=1).astype(np.int64)
        both.sort(axis=1)
        distinct, pair_of = np.unique(both, axis=0, return_inverse=True)
        drawn = rng.permutation(len(distinct))[: share_of(len(distinct), share)]
        is_aside = np.isin(pair_of.reshape(-1), drawn)
        return self.take(np.flatnonzero(~is_aside)), self.take(np.flatnonzero(is_aside))


def share_of(count: int, share: float) -> int:
    """Return a share of a number of things, rounded down.

    Reckoned in decimals, as the share is written: in floating point .29 of 100 is a little less
    than 29.

    Example:
        >>> share_of(100, 0.29), share_of(19, 0.05)
        (29, 0)
    """
    return int(Decimal(str(share)) * count)


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
    known: tuple[NDArray[np.int64], ...]
    """[pairs] the same as item indices, whether or not the batch has them."""


class Batches:
    """Draws the batches of an epoch.

    Where other items need more batches than pairs do, pairs still come ``batch_size`` together, in
    some of the batches: in-batch negatives are other pairs' positives, and pairs thinned out over
    all batches would have none.

    Args:
        pairs: the training pairs.
        other_items: items in no pair that only the text-image loss can learn from; each comes once
            per epoch, spread over the batches.
        batch_size: pairs in a batch at most, and other items.
    """

    def __init__(self, pairs: Pairs, other_items: NDArray[np.int32], batch_size: int) -> None:
        self._pairs = pairs
        self._others = other_items
        # Similarity goes both ways, so neither may be pushed off the other.
        ends = np.concatenate([pairs.anchors, pairs.positives]).astype(np.int64)
        others = np.concatenate([pairs.positives, pairs.anchors]).astype(np.int64)
        distinct = np.unique(np.stack([ends, others], axis=1), axis=0)
        named, starts = np.unique(distinct[:, 0], return_index=True)
        groups = np.split(distinct[:, 1], starts[1:])
        # Without pairs there is one group, of nothing, and nobody it belongs to.
        self._known = dict(zip(named.tolist(), groups, strict=False))
        self._n_with_pairs = max(1, -(-len(pairs) // batch_size))
        self.n_batches = max(self._n_with_pairs, -(-len(other_items) // batch_size))

    def epoch(self, rng: np.random.Generator, start: int = 0) -> Iterator[Batch]:
        """Yield all pairs and other items once, in an order drawn from ``rng``.

        Args:
            rng: draws the order.
            start: number of batches at the beginning that are passed over.
        """
        together = np.array_split(rng.permutation(len(self._pairs)), self._n_with_pairs)
        others = np.array_split(rng.permutation(self._others), self.n_batches)
        rows = [np.zeros(0, dtype=np.int64)] * self.n_batches
        for number, some in enumerate(together):
            rows[number * self.n_batches // self._n_with_pairs] = some
        for some_rows, some_others in zip(rows[start:], others[start:], strict=True):
            yield self.collate(self._pairs.take(some_rows), some_others)

    def collate(self, pairs: Pairs, others: NDArray[np.int32]) -> Batch:
        """Gather pairs and other items over their distinct items."""
        named = np.concatenate([pairs.anchors, pairs.positives, *pairs.negatives, others])
        items = np.unique(named).astype(np.int32)
        nothing = np.zeros(0, dtype=np.int64)
        known = tuple(self._known.get(anchor, nothing) for anchor in pairs.anchors.tolist())
        return Batch(
            items,
            np.searchsorted(items, pairs.anchors),
            np.searchsorted(items, pairs.positives),
            mark_items(items, pairs.negatives),
            mark_items(items, known),
            known,
        )


def mark_items(
    columns: NDArray[np.integer], named: Sequence[NDArray[np.integer]]
) -> NDArray[np.bool_]:
    """Return [rows, columns], True where a row names the item of a column.

    Args:
        columns: distinct item indices.
        named: per row, item indices; those that are no column are passed over.
    """
    marks = np.zeros((len(named), len(columns)), dtype=np.bool_)
    if not (len(columns) and len(named)):
        return marks
    rows = np.repeat(np.arange(len(named)), [len(items) for items in named])
    items = np.concatenate(named)
    order = np.argsort(columns, kind="stable")
    places = np.searchsorted(columns, items, sorter=order).clip(max=len(columns) - 1)
    places = order[places]
    is_there = columns[places] == items
    marks[rows[is_there], places[is_there]] = True
    return marks
