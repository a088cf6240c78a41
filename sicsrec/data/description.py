"""Numbers and pictures that describe a table of interactions."""

from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


def describe_interactions(interactions: pl.DataFrame, n_items: int) -> dict[str, Any]:
    """Return counts, density, history lengths and the span of time.

    Density is the share of all pairs of a user and an item that occur, however often.

    Args:
        interactions: schema INTERACTIONS.
        n_items: size of the catalogue, items without interactions included.
    """
    lengths = interactions.group_by("user_id").len()["len"]
    n_users = len(lengths)
    n_watched = interactions["item_id"].n_unique()
    has_times = interactions.height > 0 and interactions["timestamp"].null_count() == 0
    n_pairs = interactions.select("user_id", "item_id").n_unique()
    times = interactions["timestamp"].cast(pl.Datetime("ms"))
    return {
        "items": n_items,
        "items_with_interactions": n_watched,
        "users": n_users,
        "interactions": interactions.height,
        "repeated_interactions": interactions.height - n_pairs,
        "density": n_pairs / (n_users * n_items) if n_users and n_items else 0.0,
        "history_length": {
            "mean": round(float(np.mean(lengths.to_numpy())), 3) if n_users else 0.0,
            **{f"q{round(100 * q)}": lengths.quantile(q, "nearest") for q in _QUANTILES},
        },
        "first": str(times.min()) if has_times else None,
        "last": str(times.max()) if has_times else None,
    }


def draw_popularity(interactions: pl.DataFrame) -> Figure:
    """Draw interactions per item, most watched first, and the histogram of history lengths."""
    counts = np.sort(interactions.group_by("item_id").len()["len"].to_numpy())[::-1]
    lengths = interactions.group_by("user_id").len()["len"].to_numpy()
    # A Figure of its own, not pyplot's, which keeps every figure alive and picks a window system.
    figure = Figure(figsize=(10, 4), layout="constrained")
    popularity, histories = figure.subplots(1, 2)
    popularity.loglog(np.arange(1, len(counts) + 1), counts)
    for axis in (popularity.xaxis, popularity.yaxis):
        axis.set_minor_locator(NullLocator())
    popularity.set(xlabel="item, by popularity", ylabel="interactions", title="Popularity")
    top = int(np.quantile(lengths, 0.99)) if len(lengths) else 1
    shown = np.minimum(lengths, top)
    histories.hist(shown, bins=whole_number_bins(shown, 50))
    histories.set(xlabel="interactions (longest 1 % together)", ylabel="users", title="Histories")
    return figure


def whole_number_bins(counts: NDArray[np.integer], n_most: int) -> list[float]:
    """Return the edges of at most ``n_most`` bins that each hold equally many whole numbers.

    Edges that part numbers unevenly leave gaps and steps in a histogram that the data do not have.

    Example:
        >>> whole_number_bins(np.array([3, 5, 6]), 2)
        [2.5, 4.5, 6.5]
    """
    low, high = (int(counts.min()), int(counts.max())) if len(counts) else (1, 1)
    step = -(-(high - low + 1) // n_most)
    return [edge - 0.5 for edge in range(low, high + step + 1, step)]
