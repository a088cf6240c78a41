"""Small histories and scorers that are written down rather than trained."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.sequences import Histories


def make_histories(*histories: Sequence[int]) -> Histories:
    """Users u0, u1, ... with these item indices."""
    lengths = [len(history) for history in histories]
    return Histories(
        pl.Series("user_id", [f"u{row:04d}" for row in range(len(histories))], dtype=pl.String),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.array([item for history in histories for item in history], dtype=np.int32),
    )


def random_histories(n_users: int, n_items: int, longest: int, seed: int) -> Histories:
    """Histories of 0 to ``longest`` items, repeats included."""
    rng = np.random.default_rng(seed)
    return make_histories(
        *(
            rng.integers(1, n_items + 1, rng.integers(0, longest + 1)).tolist()
            for _ in range(n_users)
        )
    )


def make_catalog(*item_ids: str) -> ItemCatalog:
    n = len(item_ids)
    return ItemCatalog(
        pl.DataFrame(
            {
                "item_id": item_ids,
                "item_index": pl.Series(range(1, n + 1), dtype=pl.Int32),
                "title": item_ids,
                "description": pl.Series([None] * n, dtype=pl.String),
                "text": item_ids,
                "language": pl.Series([None] * n, dtype=pl.String),
                "topics": pl.Series([None] * n, dtype=pl.List(pl.String)),
                "image_path": pl.Series([None] * n, dtype=pl.String),
                "image_status": ["missing"] * n,
            }
        )
    )


@dataclass
class FixedScores:
    """Row u of ``scores`` for user ``u<u>``; remembers the largest block asked for."""

    scores: torch.Tensor
    name: str = "fixed scores"
    largest_block: int = 0

    def score(self, histories: Histories) -> torch.Tensor:
        self.largest_block = max(self.largest_block, len(histories))
        return self.scores[[int(user[1:]) for user in histories.user_ids]]


@dataclass
class Factorised:
    """Mean of the vectors of the history times all item vectors: a small but real recommender."""

    item_matrix: torch.Tensor

    def score(self, histories: Histories) -> torch.Tensor:
        rows = torch.from_numpy(np.repeat(np.arange(len(histories)), histories.lengths))
        users = torch.zeros(len(histories), self.item_matrix.shape[1])
        users.index_add_(0, rows, self.item_matrix[torch.from_numpy(histories.items).long() - 1])
        return users @ self.item_matrix.T
