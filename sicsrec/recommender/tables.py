"""Ranked indices as tables."""

import logging

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

RECOMMENDATIONS = pa.schema(
    [
        ("user_id", pa.string()),
        ("rank", pa.int32()),
        ("item_id", pa.string()),
        ("score", pa.float32()),
    ]
)
"""Columns of recommendations, in files and in memory."""


def recommendation_table(
    user_ids: pl.Series,
    item_ids: pl.Series,
    indices: NDArray[np.int32],
    scores: NDArray[np.float32],
) -> pl.DataFrame:
    """Return ranked items as rows of user_id, rank (from 1), item_id and score.

    Args:
        user_ids: [U].
        item_ids: row r is the id of item index r + 1.
        indices: [U, K], best first; 0 where fewer than k items are left.
        scores: [U, K].
    """
    found = indices > 0
    users, places = np.nonzero(found)
    return pl.DataFrame(
        {
            "user_id": user_ids.gather(users),
            "rank": pl.Series(places + 1, dtype=pl.Int32),
            "item_id": item_ids.gather(indices[found].astype(np.int64) - 1),
            "score": scores[found],
        }
    )


def warn_of_users_without(n_without: int, n_users: int, n_items: int) -> None:
    """Say that users have no row in a table of recommendations, where there are such users.

    Args:
        n_without: users for whom no item was left, which ``remove_seen`` alone brings about.
        n_users: all users.
        n_items: items of the catalogue.
    """
    if n_without:
        logger.warning(
            "%d of %d users get no recommendations: they have watched the whole catalogue (number "
            "of items: %d), and export.remove_seen leaves out what was watched; to recommend it "
            "again set export.remove_seen: false",
            n_without,
            n_users,
            n_items,
        )
