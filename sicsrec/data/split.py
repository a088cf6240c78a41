"""The parts of the log as types that do not fit each other (leak lock 1).

``TrainLog`` is all that sampling, alignment and sequence building accept. ``HeldOut`` offers what
ranking needs: a context and one target per user.
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from sicsrec.data.schema import INTERACTIONS, TARGETS, check_schema
from sicsrec.errors import DataError

MIN_HISTORY_LENGTH = 3
"""Shortest history that leave-one-out holds items out of."""


@dataclass(frozen=True)
class TrainLog:
    """The training interactions, schema :data:`sicsrec.data.schema.INTERACTIONS`."""

    interactions: pl.DataFrame

    @classmethod
    def read(cls, folder: Path) -> "TrainLog":
        """Read what :meth:`write` left in ``folder``."""
        frame = pl.read_parquet(folder / "interactions.parquet", glob=False)
        return cls(check_schema(frame, INTERACTIONS, "training log"))

    def write(self, folder: Path) -> None:
        """Write the log into ``folder``."""
        self.interactions.write_parquet(folder / "interactions.parquet")


@dataclass(frozen=True)
class HeldOut:
    """Held-out targets and what came before them.

    ``context`` has the schema INTERACTIONS and holds, for every user of ``targets`` and for no
    other, all interactions before the target (possibly none); ``targets`` has the schema TARGETS,
    one row per user, sorted by user.
    """

    context: pl.DataFrame
    targets: pl.DataFrame

    @classmethod
    def read(cls, folder: Path) -> "HeldOut":
        """Read what :meth:`write` left in ``folder``."""
        return cls(
            check_schema(
                pl.read_parquet(folder / "context.parquet", glob=False),
                INTERACTIONS,
                "held-out context",
            ),
            check_schema(
                pl.read_parquet(folder / "targets.parquet", glob=False), TARGETS, "held-out targets"
            ),
        )

    def write(self, folder: Path) -> None:
        """Write context and targets into ``folder``."""
        self.context.write_parquet(folder / "context.parquet")
        self.targets.write_parquet(folder / "targets.parquet")


@dataclass(frozen=True)
class ValidPart(HeldOut):
    """What validation ranks, and all interactions of the validation part, target or not.

    ``interactions`` has the schema INTERACTIONS: what a refit is told beside :class:`TrainLog`, and
    nothing else reads it. Under :func:`leave_one_out` they are the targets; under
    :func:`global_time` a part goes on after a user's target.
    """

    interactions: pl.DataFrame

    @classmethod
    def read(cls, folder: Path) -> "ValidPart":
        """Read what :meth:`write` left in ``folder``."""
        ranked = HeldOut.read(folder)
        interactions = check_schema(
            pl.read_parquet(folder / "interactions.parquet", glob=False),
            INTERACTIONS,
            "validation log",
        )
        return cls(ranked.context, ranked.targets, interactions)

    def write(self, folder: Path) -> None:
        """Write context, targets and interactions into ``folder``."""
        super().write(folder)
        self.interactions.write_parquet(folder / "interactions.parquet")


@dataclass(frozen=True)
class Split:
    """The three parts of a log."""

    train: TrainLog
    valid: ValidPart
    test: HeldOut


def leave_one_out(interactions: pl.DataFrame) -> Split:
    """Hold out the last item of every user for test and the one before it for validation.

    The paper's protocol. Users with fewer than three interactions stay in training whole. Its known
    weakness: the cut is in every user's own time, so training holds interactions of other users
    that happened after a user's target, popularity of the future included. Figures are comparable
    with the literature and kinder than a deployment would be; :func:`global_time` is not.

    Args:
        interactions: schema INTERACTIONS, in any row order.

    Raises:
        SchemaError: if the columns are others.
        DataError: if a user has one position twice, or no user has three interactions.
    """
    log = _in_order(interactions)
    from_end = pl.col("position").len().over("user_id") - 1 - pl.int_range(pl.len()).over("user_id")
    is_long = pl.col("position").len().over("user_id") >= MIN_HISTORY_LENGTH
    marked = log.with_columns(from_end=from_end, is_long=is_long)
    if not marked["is_long"].any():
        raise DataError(
            f"split: none of {log['user_id'].n_unique()} users has {MIN_HISTORY_LENGTH} "
            "interactions, so nothing can be held out; loosen ingest.filters or give more data"
        )
    train = marked.filter(~pl.col("is_long") | (pl.col("from_end") >= 2))
    long = marked.filter("is_long")
    valid = long.filter(pl.col("from_end") == 1)
    return Split(
        train=TrainLog(_as_log(train)),
        valid=_with_log(
            _held_out(long.filter(pl.col("from_end") >= 1), pl.col("from_end") == 1), valid
        ),
        test=_held_out(long, pl.col("from_end") == 0),
    )


def global_time(interactions: pl.DataFrame, valid_share: float, test_share: float) -> Split:
    """Cut the log at two points in time, the same for all users.

    Training is everything before the first point. A user's validation target is their first
    interaction from the first point on and before the second, their test target the first from the
    second point on; the context of a target is everything of that user before it. Interactions at
    equal times fall on the same side. A user without any earlier interaction is kept and has an
    empty context: how a model treats newcomers is part of what this split measures. Further
    interactions of a user between the points are no targets; they are in the context of the test
    target, and a refit is trained on them.

    Its known weakness: users who do not come back after a point have no target, so figures
    describe active users, and the times between training and target differ.

    Args:
        interactions: schema INTERACTIONS, in any row order, with timestamps.
        valid_share: share of all interactions between the points.
        test_share: share of all interactions after the second point.

    Raises:
        SchemaError: if the columns are others.
        DataError: if timestamps are missing, a user's positions do not follow them, or a part
            would be empty.
    """
    log = _in_order(interactions)
    if log["timestamp"].null_count():
        raise DataError(
            "split.strategy global_time needs timestamps, but these interactions have only an "
            "order; use leave_one_out"
        )
    times = log["timestamp"].sort()
    first_row = _cut_row(log.height, 1.0 - valid_share - test_share)
    second_row = _cut_row(log.height, 1.0 - test_share)
    first, second = times[first_row], times[second_row]
    if first_row == 0 or first_row == second_row:
        raise DataError(
            f"split: {log.height} interactions are too few for global_time with valid_share "
            f"{valid_share} and test_share {test_share}: none would be left for "
            f"{'valid' if first_row else 'train'}; give more data, change the shares or use "
            "leave_one_out"
        )
    time = pl.col("timestamp")
    train = log.filter(time < first)
    valid_window = log.filter((time >= first) & (time < second))
    for name, part in (("train", train), ("valid", valid_window)):
        if not part.height:
            raise DataError(
                f"split: global_time leaves nothing for {name}: {(times == first).sum()} of "
                f"{log.height} interactions have the same time; change valid_share and test_share "
                "or use leave_one_out"
            )
    return Split(
        train=TrainLog(train),
        valid=_with_log(_hold_out_first_since(log.filter(time < second), first), valid_window),
        test=_hold_out_first_since(log, second),
    )


def _cut_row(n_rows: int, share: float) -> int:
    return min(max(round(n_rows * share), 0), n_rows - 1)


def _hold_out_first_since(log: pl.DataFrame, moment: int) -> HeldOut:
    """Hold out every user's first interaction from ``moment`` on; what follows it is dropped."""
    is_late = pl.col("timestamp") >= moment
    n_late = is_late.cast(pl.Int32).cum_sum().over("user_id")
    marked = log.with_columns(n_late=n_late)
    coming = marked.filter((pl.col("n_late") > 0).any().over("user_id") & (pl.col("n_late") <= 1))
    return _held_out(coming, pl.col("n_late") == 1)


def _held_out(log: pl.DataFrame, is_target: pl.Expr) -> HeldOut:
    targets = log.filter(is_target).select(list(TARGETS)).sort("user_id")
    return HeldOut(context=_as_log(log.filter(~is_target)), targets=targets)


def _with_log(ranked: HeldOut, interactions: pl.DataFrame) -> ValidPart:
    return ValidPart(ranked.context, ranked.targets, _as_log(interactions))


def _as_log(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(list(INTERACTIONS)).sort("user_id", "position")


def _in_order(interactions: pl.DataFrame) -> pl.DataFrame:
    log = check_schema(interactions, INTERACTIONS, "interactions").sort("user_id", "position")
    if not log.height:
        raise DataError("split: there are no interactions")
    if log.select("user_id", "position").n_unique() != log.height:
        raise DataError("split: some user has two interactions at the same position")
    goes_back = (pl.col("timestamp").diff() < 0).over("user_id")
    if log.select(goes_back.any()).item():
        raise DataError("split: the positions of some user do not follow the timestamps")
    return log
