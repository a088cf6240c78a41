"""Whether a new model beats the one in use on the validation part, by more than noise.

Both models' ranks of the same validation targets are compared user by user: the difference in
NDCG@10 with a 95 % interval from resampling users (:mod:`sicsrec.evaluation.intervals`). The new
model wins when the whole interval lies above 0. Test targets choose nothing.

What this does not know: how much another seed would differ; and that of many candidates tried one
after another some win by chance, about one in forty that is no better. The validation figures of a
blend are those of the data its weights were fitted on, which favours it over a model that ranks
without one.
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from sicsrec.errors import DataError
from sicsrec.evaluation.intervals import PairedDifference, paired_difference
from sicsrec.evaluation.metrics import per_user_metrics

METRIC, CUTOFF = "ndcg_at_10", 10
CONFIDENCE = 0.95
N_RESAMPLES = 2000
SEED = 2024
MIN_SHARED = 0.9
"""Least share of either model's targets that both must have ranked, and of the champion's items
that the candidate must have been ranked among."""
COLUMNS = ("user_id", "item_id", "rank")
PROTOCOL = ("remove_seen", "n_items")
"""Constant columns that say what the target was ranked among."""


@dataclass(frozen=True)
class Verdict:
    """How a candidate did against the champion."""

    promoted: bool
    reason: str
    """One sentence for people."""
    n_users: int = 0
    """Users compared."""
    difference: PairedDifference | None = None


def validation_ranks(
    per_user: pl.DataFrame, model: str, *, remove_seen: bool, n_items: int
) -> pl.DataFrame:
    """Return a model's validation targets, their ranks and what they were ranked among.

    Args:
        per_user: the table of ``evaluate``: columns user_id, split, model, item_id, rank.
        model: as the table calls it.
        remove_seen: whether watched items were left out.
        n_items: items that were ranked.

    Raises:
        DataError: if the table has no such rows.
    """
    found = per_user.filter((pl.col("split") == "valid") & (pl.col("model") == model))
    if found.is_empty():
        raise DataError(f"the table of users has no validation ranks of {model!r}")
    return found.select(*COLUMNS, remove_seen=pl.lit(remove_seen), n_items=pl.lit(n_items))


def judge_files(candidate: Path, champion: Path | None) -> Verdict:
    """Do as :func:`judge_candidate` with the files of both.

    Args:
        candidate: Parquet file of what :func:`validation_ranks` returns.
        champion: the same; None: there is no champion.
    """
    before = None if champion is None else pl.read_parquet(champion, glob=False)
    return judge_candidate(pl.read_parquet(candidate, glob=False), before)


def judge_candidate(candidate: pl.DataFrame, champion: pl.DataFrame | None) -> Verdict:
    """Decide whether a candidate takes the champion's place.

    Args:
        candidate: what :func:`validation_ranks` returns.
        champion: the same, or without ``PROTOCOL`` where an earlier version wrote it, and then
            not comparable; None: there is no champion.
    """
    if champion is None:
        return Verdict(promoted=True, reason="there was no champion before")
    obstacle = _other_protocol(candidate, champion)
    if obstacle:
        return _not_comparable(obstacle)
    shared = candidate.join(champion, on=["user_id", "item_id"], suffix="_champion")
    needed = MIN_SHARED * max(candidate.height, champion.height)
    if shared.height < max(1.0, needed):
        return _not_comparable(
            f"{shared.height} of {candidate.height} validation targets are those of the champion",
            shared.height,
        )
    values = [
        per_user_metrics(shared[name].to_numpy().astype("int64"), (CUTOFF,))[METRIC]
        for name in ("rank", "rank_champion")
    ]
    found = paired_difference(*values, n_resamples=N_RESAMPLES, confidence=CONFIDENCE, seed=SEED)
    promoted = found.low > 0.0
    word = "better" if promoted else "worse" if found.high < 0.0 else "not better"
    return Verdict(
        promoted=promoted,
        reason=(
            f"validation NDCG@10 {found.difference:+.4f} against the champion "
            f"({CONFIDENCE:.0%} interval {found.low:+.4f} to {found.high:+.4f}, "
            f"{shared.height} users): {word} beyond noise"
        ),
        n_users=shared.height,
        difference=found,
    )


def _not_comparable(obstacle: str, n_users: int = 0) -> Verdict:
    return Verdict(
        promoted=False,
        reason=f"not comparable: {obstacle}; compare by hand and set the alias yourself",
        n_users=n_users,
    )


def _other_protocol(candidate: pl.DataFrame, champion: pl.DataFrame) -> str:
    """Say in which way both were ranked differently; empty where they were not.

    A rank among fewer items is a better one, whatever the model. A catalogue that grows only makes
    it harder for the candidate.
    """
    if not set(PROTOCOL) <= set(champion.columns):
        return f"the champion's ranks do not say their {' and '.join(PROTOCOL)}"
    (remove_seen, n_items), (of_champion, n_of_champion) = (
        frame.select(PROTOCOL).row(0) for frame in (candidate, champion)
    )
    if remove_seen != of_champion:
        return f"remove_seen is {remove_seen}, and {of_champion} for the champion"
    if n_items < MIN_SHARED * n_of_champion:
        return f"ranked among {n_items} items, and among {n_of_champion} for the champion"
    return ""
