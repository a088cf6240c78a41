"""To whom a new item would be recommended."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from sicsrec.data.sequences import Histories
from sicsrec.errors import TrainingDivergedError
from sicsrec.evaluation.ranking import BLOCK_USERS, count_where
from sicsrec.models.new_items import Basis, NewItemVectors
from sicsrec.recommender.model import Recommender


@dataclass(frozen=True)
class Audience:
    """Where one new item stands in the recommendations of many users."""

    basis: Basis
    """What the scores are; see :mod:`sicsrec.models.new_items`."""
    n_users: int
    n_in_top_k: int
    """Users among whose first k recommendations it is."""
    users: pl.DataFrame
    """Columns user_id, rank and score; the users for whom it stands highest, best first."""


def find_audience(
    recommender: Recommender,
    new: NewItemVectors,
    histories: Histories,
    *,
    k: int = 10,
    n_users: int = 10,
) -> Audience:
    """Rank the first of the new items for every user, among all items not watched yet.

    Memory holds one block of scores, however many users there are.

    Args:
        recommender: what scores.
        new: the item; further ones are ranked too and count as rivals.
        histories: of the users; those without a known item are passed over.
        k: the length of a list of recommendations.
        n_users: users to name.

    Raises:
        TrainingDivergedError: if a score is not finite.
    """
    scorer = recommender.scorer_with(new)
    rows = np.flatnonzero(histories.lengths > 0)
    column = recommender.model.n_items
    ranks, scores = np.empty(len(rows), dtype=np.int64), np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), BLOCK_USERS):
        place = slice(start, start + BLOCK_USERS)
        block = histories.take(rows[place])
        found = scorer.score(block)
        if not torch.isfinite(found).all():
            raise TrainingDivergedError("some scores are NaN or infinite; train the model again")
        own = found[:, column].clone()
        users = torch.from_numpy(block.owners)
        found[users, torch.from_numpy(block.items.astype(np.int64) - 1)] = -torch.inf
        ranks[place] = count_where(torch.ge, found, own[:, None]).cpu().numpy()
        scores[place] = own.cpu().numpy()
    table = pl.DataFrame(
        {"user_id": histories.user_ids.gather(rows), "rank": ranks, "score": scores}
    ).sort(["rank", "score"], descending=[False, True], maintain_order=True)
    return Audience(scorer.basis, len(rows), int((ranks <= k).sum()), table.head(n_users))
