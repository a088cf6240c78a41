"""Numbers and pictures of raw data."""

import numpy as np
import polars as pl
import pytest

from sicsrec.data.description import (
    describe_interactions,
    draw_popularity,
    whole_number_bins,
)
from sicsrec.data.schema import INTERACTIONS


@pytest.mark.parametrize("n_most", [1, 3, 40])
@pytest.mark.parametrize("top", [4, 5, 30, 137])
def test_every_bin_holds_equally_many_whole_numbers(n_most: int, top: int) -> None:
    numbers = np.arange(4, top + 1)
    edges = whole_number_bins(numbers, n_most)
    assert 1 <= len(edges) - 1 <= n_most
    counts, _ = np.histogram(numbers, edges)
    assert counts.sum() == len(numbers)
    assert len(set(counts[:-1])) <= 1


def test_lengths_that_all_occur_leave_no_gap_in_the_picture() -> None:
    users = [f"u{length}" for length in range(4, 31) for _ in range(length)]
    log = pl.DataFrame({"user_id": users, "item_id": "v"})
    bars = draw_popularity(log).axes[1].patches
    # The longest hundredth, one user, is drawn with the one before.
    assert [bar.get_height() for bar in bars] == [1] * 25 + [2]


def test_an_empty_log_can_be_drawn() -> None:
    draw_popularity(pl.DataFrame(schema={"user_id": pl.String, "item_id": pl.String}))


def test_density_counts_a_pair_once() -> None:
    frame = pl.DataFrame(
        [("u", "a", None, n) for n in range(3)] + [("v", "b", None, 3)],
        schema=dict(INTERACTIONS),
        orient="row",
    )
    described = describe_interactions(frame, n_items=4)
    assert described["density"] == 2 / (2 * 4)
    assert described["repeated_interactions"] == 2
