"""Histories as ragged arrays: the form in which models and rankings read them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sicsrec.data.catalog import ItemCatalog


def offsets_of(lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return where each of some pieces begins, one laid after the other, and where the last ends.

    Example:
        >>> offsets_of(np.array([2, 0, 3])).tolist()
        [0, 2, 2, 5]
    """
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def places_within(lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the place of every entry in its own piece, the pieces one laid after the other.

    Example:
        >>> places_within(np.array([2, 0, 3])).tolist()
        [0, 1, 0, 1, 2]
    """
    offsets = offsets_of(lengths)
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)


@dataclass(frozen=True)
class Histories:
    """Item indices of many users, one after the other, each in time order.

    User u's items are ``items[offsets[u]:offsets[u + 1]]``.
    """

    user_ids: pl.Series
    """User ids, each once; a user without items may occur and has an empty history."""
    offsets: NDArray[np.int64]
    items: NDArray[np.int32]

    @classmethod
    def from_interactions(cls, interactions: pl.DataFrame, catalog: ItemCatalog) -> "Histories":
        """Gather interactions (columns user_id, item_id, position) by user.

        Raises:
            DataError: if an item is not in the catalogue.
        """
        ordered = interactions.sort("user_id", "position")
        lengths = ordered.group_by("user_id", maintain_order=True).len()
        offsets = offsets_of(lengths["len"].to_numpy())
        return cls(lengths["user_id"], offsets, catalog.indices_of(ordered["item_id"]))

    def __len__(self) -> int:
        """Return the number of users."""
        return len(self.user_ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Items per user."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> NDArray[np.int64]:
        """Row of the user of every item, as long as :attr:`items`."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def of_user(self, row: int) -> NDArray[np.int32]:
        """Return the history of the user in row ``row``."""
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    def take(self, rows: NDArray[np.integer]) -> "Histories":
        """Return the histories of some users, in the order of ``rows``."""
        lengths = self.lengths[rows]
        entries = np.repeat(self.offsets[:-1][rows], lengths) + places_within(lengths)
        return Histories(self.user_ids.gather(rows), offsets_of(lengths), self.items[entries])

    def chunks(self, n_users: int) -> Iterator["Histories"]:
        """Yield the histories of ``n_users`` users after the other, the last chunk maybe fewer."""
        for start in range(0, len(self), n_users):
            yield self.take(np.arange(start, min(start + n_users, len(self))))

    def select_users(self, user_ids: pl.Series) -> "Histories":
        """Return the histories of these users in this order; a user not known here gets an empty
        history.
        """
        wanted = pl.DataFrame({"user_id": user_ids})
        known = pl.DataFrame({"user_id": self.user_ids}).with_row_index("row")
        rows = wanted.join(known, on="user_id", how="left", maintain_order="left")["row"]
        with_empty = Histories(
            pl.concat([self.user_ids, pl.Series(self.user_ids.name, [""], dtype=pl.String)]),
            np.concatenate([self.offsets, self.offsets[-1:]]),
            self.items,
        )
        taken = with_empty.take(rows.fill_null(len(self)).to_numpy().astype(np.int64))
        return Histories(user_ids, taken.offsets, taken.items)

    def followed_by(self, later: "Histories") -> "Histories":
        """Return each user's items here and then those in ``later``, sorted by user.

        A user who is not known here gets the later history alone.
        """
        parts = [
            pl.DataFrame(
                {
                    "user_id": histories.user_ids.gather(histories.owners),
                    "item": histories.items,
                    "is_later": histories is later,
                }
            )
            for histories in (self, later)
        ]
        ordered = pl.concat(parts).sort("user_id", "is_later", maintain_order=True)
        lengths = ordered.group_by("user_id", maintain_order=True).len()
        offsets = offsets_of(lengths["len"].to_numpy())
        return Histories(lengths["user_id"], offsets, ordered["item"].to_numpy())

    def nth_last(self, n: int) -> NDArray[np.int32]:
        """Return every user's n-th item from the end, [U]; 0 where the history is shorter."""
        items = np.zeros(len(self), dtype=np.int32)
        long_enough = self.lengths >= n
        items[long_enough] = self.items[self.offsets[1:][long_enough] - n]
        return items


def item_counts(histories: Histories, n_items: int) -> NDArray[np.int64]:
    """Return how often each item was watched: [N], entry r belongs to item index r + 1."""
    return np.bincount(histories.items, minlength=n_items + 1)[1:].astype(np.int64)
