"""Full ranking: where each user's held-out target stands among all items, and the best k items.

Scores are asked for by blocks of users, so no matrix of all users by all items ever exists. The
catalogue is never sampled: sampled ranking can reverse the order of two models.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.sequences import Histories
from sicsrec.data.split import HeldOut
from sicsrec.errors import DataError, TrainingDivergedError

BLOCK_USERS = 256
"""Users scored at once; a block of scores takes 4 * BLOCK_USERS * N bytes, twice that of counts."""
BLOCK_SCORES = 1 << 28
"""Scores of a block on a GPU (1 GiB), which few users would leave idle."""
_MOST_USERS = 4096
"""Users of such a block at most."""
_COMPARED_AT_ONCE = 1 << 22
"""Scores compared at once; each takes 8 bytes while it is counted."""


@runtime_checkable
class Scorer(Protocol):
    """Anything that scores all items for a user: a trained model or a table of counts."""

    def score(self, histories: Histories) -> Float[Tensor, "users items"]:
        """Return a finite score of every item for every user, higher is better.

        Column j belongs to item index j + 1: padding is no item and has no column. A user with an
        empty history gets scores too.
        """
        ...


@dataclass(frozen=True)
class RankingSet:
    """Users with their context and one held-out target each, joined by user id."""

    histories: Histories
    """Context of every user, empty where nothing precedes the target."""
    targets: NDArray[np.int32]
    """[U]; item index of the target of the user in the same row of ``histories``."""

    @classmethod
    def from_held_out(cls, held_out: HeldOut, catalog: ItemCatalog) -> "RankingSet":
        """Bring the held-out part of the log into the form that ranking reads.

        Raises:
            DataError: if an item is not in the catalogue or a user has two targets.
        """
        user_ids = held_out.targets["user_id"]
        if user_ids.n_unique() != len(user_ids):
            raise DataError("held-out targets: some users have more than one target")
        histories = Histories.from_interactions(held_out.context, catalog)
        return cls(
            histories.select_users(user_ids), catalog.indices_of(held_out.targets["item_id"])
        )

    def __len__(self) -> int:
        """Return the number of users."""
        return len(self.histories)


def name_of(scorer: Scorer) -> str:
    """Return the name under which messages speak of a scorer."""
    return str(getattr(scorer, "name", type(scorer).__name__))


def rank_targets(
    scorer: Scorer,
    histories: Histories,
    targets: NDArray[np.int32],
    *,
    remove_seen: bool,
    block_users: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> NDArray[np.int64]:
    """Rank each user's target among all N items.

    ``rank = 1 + |{i != target: score_i >= score_target}|``: a tie counts against the target, so a
    scorer that gives every item the same score ranks every target last instead of first.

    Args:
        scorer: what is judged.
        histories: context of U users.
        targets: [U], item indices in 1..N; row r belongs to row r of ``histories``.
        remove_seen: leave the items of a user's context, except the target, out of the ranking.
        block_users: users scored at once; None: as suits where the scorer computes.
        advance: told the number of users after every block.

    Returns:
        [U], ranks in 1..N.

    Raises:
        DataError: if there is not one target in 1..N per user.
        TrainingDivergedError: if a score is NaN or infinite; names the scorer.
    """
    return _rank(scorer, histories, targets, (remove_seen,), block_users, advance)[remove_seen]


def rank_targets_both_ways(
    scorer: Scorer,
    histories: Histories,
    targets: NDArray[np.int32],
    *,
    block_users: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> dict[bool, NDArray[np.int64]]:
    """Rank with watched items kept and with watched items left out, scoring once.

    Args:
        scorer: what is judged.
        histories: context of U users.
        targets: [U], item indices in 1..N; row r belongs to row r of ``histories``.
        block_users: users scored at once; None: as suits where the scorer computes.
        advance: told the number of users after every block.

    Returns:
        Whether watched items are left out to the ranks as :func:`rank_targets` returns them.

    Raises:
        DataError: if there is not one target in 1..N per user.
        TrainingDivergedError: if a score is NaN or infinite; names the scorer.
    """
    return _rank(scorer, histories, targets, (False, True), block_users, advance)


def _rank(
    scorer: Scorer,
    histories: Histories,
    targets: NDArray[np.int32],
    ways: tuple[bool, ...],
    block_users: int | None,
    advance: Callable[[int], None] | None,
) -> dict[bool, NDArray[np.int64]]:
    """Return the ranks by whether watched items are left out, for the ways that are asked for."""
    if len(targets) != len(histories):
        raise DataError(f"{len(histories)} users but {len(targets)} targets to rank")
    ranks = {way: np.empty(len(histories), dtype=np.int64) for way in ways}
    for rows in _blocks(len(histories), block_users or _block_users(scorer)):
        block, block_targets = histories.take(rows), targets[rows]
        scores = _finite_scores(scorer, block)
        n_items = scores.shape[1]
        if block_targets.min() < 1 or block_targets.max() > n_items:
            raise DataError(f"targets must be item indices in 1..{n_items}, the items scored")
        columns = torch.from_numpy(block_targets.astype(np.int64) - 1).to(scores.device)
        target_scores = scores.gather(1, columns[:, None])
        # The target is not below itself, so counting it gives the 1 of the formula.
        block_ranks = count_where(torch.ge, scores, target_scores)
        if False in ways:
            ranks[False][rows] = block_ranks.cpu().numpy()
        if True in ways:
            ranks[True][rows] = _without_seen(
                block_ranks, scores, target_scores, block, block_targets
            )
        if advance is not None:
            advance(len(rows))
    return ranks


def _without_seen(
    ranks: Int[Tensor, " users"],
    scores: Float[Tensor, "users items"],
    target_scores: Float[Tensor, "users 1"],
    histories: Histories,
    targets: NDArray[np.int32],
) -> NDArray[np.int64]:
    """Return ranks among the items that a user has not watched, and the target."""
    seen_rows, seen_columns = _seen_entries(histories, targets, scores.device)
    above = scores[seen_rows, seen_columns] >= target_scores[seen_rows, 0]
    found: NDArray[np.int64] = ranks.index_add(0, seen_rows, -above.long()).cpu().numpy()
    return found


def recommend(
    scorer: Scorer,
    histories: Histories,
    k: int,
    *,
    remove_seen: bool,
    only: NDArray[np.bool_] | None = None,
    block_users: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the k best items of every user, best first; of equal scores the lower index first.

    Args:
        scorer: gives the scores.
        histories: what U users have watched.
        k: most items per user; more than there are is all of them.
        remove_seen: leave out what the user has watched.
        only: [N], the items that may be recommended; None: all.
        block_users: users scored at once; None: as suits where the scorer computes.
        advance: told the number of users after every block.

    Returns:
        Item indices and their scores, each [U, min(k, N)], or [0, 0] without users. Where fewer
        items are left, the rest of the row holds the padding index 0 and the score -inf.

    Raises:
        DataError: if k is below 1.
        TrainingDivergedError: if a score is NaN or infinite; names the scorer.
    """
    if k < 1:
        raise DataError(f"k must be at least 1, got {k}")
    item_indices = np.zeros((0, 0), dtype=np.int32)
    best_scores = np.zeros((0, 0), dtype=np.float32)
    for rows in _blocks(len(histories), block_users or _block_users(scorer)):
        block = histories.take(rows)
        scores = _finite_scores(scorer, block)
        if remove_seen:
            # A scorer may hand out a view of its own memory, which must stay as it is.
            scores = scores.clone()
            scores[_seen_entries(block, None, scores.device)] = -torch.inf
        if only is not None:
            scores = scores.masked_fill(torch.from_numpy(~only).to(scores.device), -torch.inf)
        if not len(item_indices):
            # Only the scores tell how many items there are, and k may be any number.
            shape = (len(histories), min(k, scores.shape[1]))
            item_indices = np.zeros(shape, dtype=np.int32)
            best_scores = np.full(shape, -np.inf, dtype=np.float32)
        values, columns = _top_k(scores, item_indices.shape[1])
        found = torch.where(values == -torch.inf, 0, columns + 1)
        item_indices[rows] = found.cpu().numpy()
        best_scores[rows] = values.float().cpu().numpy()
        if advance is not None:
            advance(len(rows))
    return item_indices, best_scores


def count_where(
    compare: Callable[[Tensor, Tensor], Tensor],
    scores: Float[Tensor, "users items"],
    thresholds: Float[Tensor, "users 1"],
) -> Int[Tensor, " users"]:
    """Return for how many of a user's items ``compare(score, threshold)`` is true.

    A few users after the other: on a CPU torch makes integers of 8 bytes of all it is to count,
    twice the memory of the scores themselves.

    Args:
        compare: such as ``torch.ge``.
        scores: of every item for every user.
        thresholds: of every user.
    """
    n_users = max(1, _COMPARED_AT_ONCE // max(1, scores.shape[1]))
    parts = zip(torch.split(scores, n_users), torch.split(thresholds, n_users), strict=True)
    return torch.cat([compare(some, own).sum(dim=1) for some, own in parts])


def _block_users(scorer: Scorer) -> int:
    """Return how many users are scored at once where nobody says so."""
    device: torch.device | None = getattr(scorer, "device", None)
    if device is None or device.type != "cuda":
        return BLOCK_USERS
    n_items = int(getattr(scorer, "n_items", BLOCK_SCORES))
    return min(_MOST_USERS, max(BLOCK_USERS, BLOCK_SCORES // n_items))


def _blocks(n_users: int, block_users: int) -> list[NDArray[np.int64]]:
    starts = range(0, n_users, block_users)
    return [np.arange(start, min(start + block_users, n_users)) for start in starts]


def _finite_scores(scorer: Scorer, histories: Histories) -> Float[Tensor, "users items"]:
    # Not inference_mode: what a model keeps from a validation must stay usable in training.
    with torch.no_grad():
        scores = scorer.score(histories)
        # aminmax hands NaN through and finds infinities in one pass, without a mask of all scores.
        lowest, highest = torch.aminmax(scores)
    if not (torch.isfinite(lowest) and torch.isfinite(highest)):
        raise TrainingDivergedError(
            f"{name_of(scorer)}: some scores are NaN or infinite; train again with a lower "
            "learning rate, or look for broken vectors among its inputs"
        )
    return scores


def _seen_entries(
    histories: Histories, targets: NDArray[np.int32] | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return row and column of every distinct item of every history, targets excepted."""
    # Pairs as single numbers: those are sorted ten times as fast.
    n_items = int(histories.items.max(initial=0)) + 1
    pairs = np.unique(histories.owners * n_items + histories.items.astype(np.int64))
    seen = np.stack(np.divmod(pairs, n_items))
    if targets is not None:
        seen = seen[:, targets[seen[0]] != seen[1]]
    return (
        torch.from_numpy(np.ascontiguousarray(seen[0])).to(device),
        torch.from_numpy(seen[1] - 1).to(device),
    )


def _top_k(scores: Float[Tensor, "users items"], k: int) -> tuple[Float[Tensor, "users k"], Tensor]:
    """Return the k highest scores and their columns; of equal scores the lower column first."""
    values, columns = torch.topk(scores, k, dim=1)
    columns, order = columns.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    # topk picks any of the items that tie for the last place; such rows are sorted in full.
    last = values[:, -1:]
    is_ambiguous = count_where(torch.eq, scores, last) > (values == last).sum(dim=1)
    if is_ambiguous.any():
        all_values, all_columns = scores[is_ambiguous].sort(dim=1, descending=True, stable=True)
        values[is_ambiguous] = all_values[:, :k]
        columns[is_ambiguous] = all_columns[:, :k]
    return values, columns
