"""Histories of a log on disk, read some users at a time."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from sicsrec.data.sequences import Histories
from sicsrec.errors import DataError

_BATCH_ROWS = 1 << 16
_COUNTED_USERS = 1 << 13


class LoggedHistories:
    """Histories of a log, whose users never are in memory all at once.

    Args:
        path: a Parquet file with the columns user_id and item_id, sorted by user_id and then by
            time (:data:`sicsrec.data.schema.INTERACTIONS`).
        item_ids: row r is the id of item index r + 1. Interactions with other items are left out,
            and so are users of whom nothing is left.
    """

    def __init__(self, path: Path, item_ids: Sequence[str]) -> None:
        self._path = path
        self._items = pl.DataFrame(
            {
                "item_id": pl.Series(item_ids, dtype=pl.String),
                "item": pl.Series(range(1, len(item_ids) + 1), dtype=pl.Int32),
            }
        )

    def __len__(self) -> int:
        """Return the number of users; reads the log the first time."""
        return self._n_users

    @cached_property
    def _n_users(self) -> int:
        return sum(len(chunk) for chunk in self.chunks(_COUNTED_USERS))

    def chunks(self, n_users: int) -> Iterator[Histories]:
        """Yield the histories of ``n_users`` users after the other, the last chunk maybe fewer.

        Raises:
            DataError: if the log is not sorted by user.
        """
        waiting = pl.DataFrame(schema={"user_id": pl.String, "item": pl.Int32})
        with pq.ParquetFile(self._path) as log:
            for batch in log.iter_batches(_BATCH_ROWS, columns=["user_id", "item_id"]):
                rows = pl.DataFrame(batch).with_columns(
                    pl.col("user_id", "item_id").cast(pl.String)
                )
                known = rows.join(self._items, on="item_id", maintain_order="left")
                waiting = pl.concat([waiting, known.select("user_id", "item")])
                if not waiting["user_id"].is_sorted():
                    raise DataError(f"{self._path} is not sorted by user_id")
                firsts = _firsts(waiting)
                # The last user may go on in the next batch.
                while len(firsts) > n_users:
                    yield _gathered(waiting[: firsts[n_users]])
                    waiting = waiting[firsts[n_users] :]
                    firsts = firsts[n_users:] - firsts[n_users]
        if waiting.height:
            yield _gathered(waiting)


def _firsts(rows: pl.DataFrame) -> np.ndarray:
    """Return the first row of every user."""
    users = rows["user_id"]
    return np.flatnonzero(users.ne_missing(users.shift(1)).to_numpy())


def _gathered(rows: pl.DataFrame) -> Histories:
    firsts = _firsts(rows)
    offsets = np.append(firsts, rows.height).astype(np.int64)
    return Histories(rows["user_id"].gather(firsts), offsets, rows["item"].to_numpy())
