"""Comparison of variants against sums made by hand."""

import io

import numpy as np
import polars as pl
import pytest

from sicsrec.errors import DataError
from sicsrec.evaluation.intervals import paired_difference
from sicsrec.evaluation.plots import plot_differences
from sicsrec.evaluation.variants import (
    METRICS,
    Resampling,
    compare_variants,
    has_differences,
    variant_table,
)

RESAMPLING = Resampling(n_bootstrap=200, confidence=0.9, seed=3)


def write(folder, name, ranks, *, targets=None, model="ours"):
    """Write test ranks of one model by user, valid ranks and another model's beside them."""
    users = [f"u{n}" for n in range(len(ranks))]
    targets = targets or [f"i{n}" for n in range(len(ranks))]
    own = pl.DataFrame(
        {"user_id": users, "split": "test", "model": model, "item_id": targets, "rank": ranks},
        schema_overrides={"rank": pl.Int32},
    )
    noise = own.with_columns(rank=pl.lit(1, dtype=pl.Int32))
    path = folder / f"{name}.parquet"
    pl.concat(
        [
            noise.with_columns(split=pl.lit("valid")),
            own.sample(fraction=1.0, shuffle=True, seed=1),
            noise.with_columns(model=pl.lit("another")),
        ]
    ).write_parquet(path)
    return path


def gain(rank, cutoff):
    return 1.0 / np.log2(rank + 1) if rank <= cutoff else 0.0


def test_means_are_over_users_and_seeds_and_differences_are_paired(tmp_path):
    first = {1: write(tmp_path, "a1", [1, 2, 7, 20]), 2: write(tmp_path, "a2", [1, 11, 3, 4])}
    other = {1: write(tmp_path, "b1", [1, 1, 3, 20]), 2: write(tmp_path, "b2", [2, 4, 3, 4])}
    rows = compare_variants({"a": first, "b": other}, ["ours"], RESAMPLING)
    assert [(row["variant"], row["seeds"], row["users"]) for row in rows] == [
        ("a", 2, 4),
        ("b", 2, 4),
    ]
    assert rows[0]["hr_at_10"] == pytest.approx((3 / 4 + 3 / 4) / 2)
    assert rows[1]["hr_at_10"] == pytest.approx((3 / 4 + 4 / 4) / 2)
    assert rows[1]["hr_at_10_spread"] == pytest.approx(1 / 4)
    assert rows[0]["hr_at_10_difference"] is None
    per_user = [
        np.mean([[gain(rank, 10) for rank in ranks] for ranks in seeds], axis=0)
        for seeds in (([1, 1, 3, 20], [2, 4, 3, 4]), ([1, 2, 7, 20], [1, 11, 3, 4]))
    ]
    expected = paired_difference(*per_user, n_resamples=200, confidence=0.9, seed=3)
    assert rows[1]["ndcg_at_10_difference"] == pytest.approx(expected.difference)
    assert rows[1]["ndcg_at_10_low"] == pytest.approx(expected.low)
    assert rows[1]["ndcg_at_10_high"] == pytest.approx(expected.high)
    assert rows[1]["ndcg_at_10_difference"] == pytest.approx(
        rows[1]["ndcg_at_10"] - rows[0]["ndcg_at_10"]
    )


def test_a_difference_uses_the_seeds_that_both_have(tmp_path):
    first = {1: write(tmp_path, "a1", [1, 1]), 2: write(tmp_path, "a2", [20, 20])}
    other = {2: write(tmp_path, "b2", [20, 1])}
    [_, row] = compare_variants({"a": first, "b": other}, ["ours"], RESAMPLING)
    assert row["seeds"] == 1
    assert row["hr_at_10_difference"] == pytest.approx(0.5)


@pytest.mark.parametrize("case", ["no seed in common", "other targets", "first never ended"])
def test_what_cannot_be_paired_has_means_and_no_difference(tmp_path, case):
    first = {1: write(tmp_path, "a1", [1, 2])}
    other = {1: write(tmp_path, "b1", [1, 2])}
    if case == "no seed in common":
        other = {2: other[1]}
    elif case == "other targets":
        other = {1: write(tmp_path, "b1", [1, 2], targets=["i1", "i0"])}
    else:
        first = {}
    rows = compare_variants({"a": first, "b": other}, ["ours"], RESAMPLING)
    assert rows[-1]["variant"] == "b"
    assert rows[-1]["hr_at_10"] == 1.0
    assert rows[-1]["hr_at_10_difference"] is None
    assert not has_differences(rows)
    assert variant_table(rows).height == len(rows) == (1 if case == "first never ended" else 2)


def test_a_model_that_was_not_ranked_is_an_error(tmp_path):
    runs = {"a": {1: write(tmp_path, "a1", [1])}}
    with pytest.raises(DataError, match=r"a1.parquet holds no test ranks of 'theirs'"):
        compare_variants(runs, ["theirs"], RESAMPLING)


def test_the_picture_shows_differences_and_names_variants_without_one(tmp_path):
    runs = {
        "full": {1: write(tmp_path, "a1", [1, 2, 30])},
        "less": {1: write(tmp_path, "b1", [1, 30, 30])},
        "elsewhere": {2: write(tmp_path, "c1", [1, 2, 3])},
    }
    rows = compare_variants(runs, ["ours", "another"], RESAMPLING)
    figure = plot_differences(rows, "full", METRICS)
    axes = figure.axes[0]
    assert len(figure.axes) == len(METRICS)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["less", "elsewhere"]
    drawn = [np.asarray(c.lines[0].get_xdata(), dtype=float) for c in axes.containers]
    np.testing.assert_allclose(drawn, [[-1 / 3], [0.0]])
    png = io.BytesIO()
    figure.savefig(png)
    assert png.getvalue().startswith(b"\x89PNG")
