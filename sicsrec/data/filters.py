"""What is left out of the interactions, each filter with its counts before and after."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from sicsrec.config import FilterConfig, parse_moment
from sicsrec.errors import DataError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class FilterCount:
    """Interactions, users and items before and after one filter."""

    name: str
    interactions_before: int
    interactions_after: int
    users_before: int
    users_after: int
    items_before: int
    items_after: int


def apply_filters(
    interactions: pl.DataFrame, config: FilterConfig
) -> tuple[pl.DataFrame, list[FilterCount]]:
    """Apply the configured filters in the order rating, dates, repeats, cores, history length.

    Args:
        interactions: columns user_id, item_id, timestamp, rating and order; ``order`` decides
            between equal times.
        config: what to leave out; filters that are off do not run and are not counted.

    Returns:
        The interactions kept, in their order, and the counts of every filter that ran.

    Raises:
        DataError: if a filter needs ratings or times that the data do not have.
    """
    counts: list[FilterCount] = []
    for name, keep in _active_filters(interactions, config):
        kept = keep(interactions)
        counts.append(_count(name, interactions, kept))
        interactions = kept
    return interactions, counts


Keep = Callable[[pl.DataFrame], pl.DataFrame]


def _active_filters(interactions: pl.DataFrame, config: FilterConfig) -> list[tuple[str, Keep]]:
    active: list[tuple[str, Keep]] = []
    if config.min_rating is not None:
        _need(interactions, "rating", "min_rating")
        at_least = pl.col("rating") >= config.min_rating
        active.append(("min_rating", lambda frame: frame.filter(at_least)))
    for name, text in (("since", config.since), ("until", config.until)):
        if text is not None:
            _need(interactions, "timestamp", name)
            milliseconds = (parse_moment(text) - _EPOCH) // timedelta(milliseconds=1)
            is_since = pl.col("timestamp") >= milliseconds
            active.append((name, _filter_by(is_since if name == "since" else ~is_since)))
    if config.drop_repeats:
        active.append(("drop_repeats", drop_repeats))
    if config.user_core or config.item_core:
        user_core, item_core = config.user_core, config.item_core
        active.append(("cores", lambda frame: keep_cores(frame, user_core, item_core)))
    if config.min_history_length:
        long_enough = pl.len().over("user_id") >= config.min_history_length
        active.append(("min_history_length", lambda frame: frame.filter(long_enough)))
    return active


def _filter_by(condition: pl.Expr) -> Keep:
    return lambda frame: frame.filter(condition)


def _need(interactions: pl.DataFrame, column: str, name: str) -> None:
    if interactions.height and interactions[column].null_count():
        raise DataError(
            f"ingest.filters.{name} is set but these interactions have no {column}; unset it, or "
            f"name the column of the {column} in the configuration of the reader"
        )


def drop_repeats(interactions: pl.DataFrame) -> pl.DataFrame:
    """Keep only the first interaction of a user with an item."""
    in_time = interactions.with_row_index("_row").sort("timestamp", "order")
    first = in_time.unique(["user_id", "item_id"], keep="first", maintain_order=True)
    return first.sort("_row").drop("_row")


def keep_cores(interactions: pl.DataFrame, user_core: int, item_core: int) -> pl.DataFrame:
    """Drop users and items with too few interactions until none is left to drop.

    The result is the largest subset in which every user has ``user_core`` and every item
    ``item_core`` interactions; it does not depend on the order of dropping.
    """
    while True:
        kept = interactions.filter(
            (pl.len().over("user_id") >= user_core) & (pl.len().over("item_id") >= item_core)
        )
        if kept.height == interactions.height:
            return kept
        interactions = kept


def _count(name: str, before: pl.DataFrame, after: pl.DataFrame) -> FilterCount:
    return FilterCount(
        name,
        before.height,
        after.height,
        before["user_id"].n_unique(),
        after["user_id"].n_unique(),
        before["item_id"].n_unique(),
        after["item_id"].n_unique(),
    )
