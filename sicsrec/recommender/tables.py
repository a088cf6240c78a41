"""Ranked indices as tables."""

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

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
