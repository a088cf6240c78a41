from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from sicsrec.errors import DataError
from sicsrec.evaluation.promotion import judge_candidate, judge_files, validation_ranks


def ranks_of(
    ranks: np.ndarray, first: int = 0, *, remove_seen: bool = False, n_items: int = 500
) -> pl.DataFrame:
    users = range(first, first + len(ranks))
    return pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in users],
            "item_id": [f"v{user}" for user in users],
            "rank": pl.Series(ranks, dtype=pl.Int32),
            "remove_seen": remove_seen,
            "n_items": n_items,
        }
    )


def test_clearly_better_is_promoted_and_clearly_worse_is_not() -> None:
    rng = np.random.default_rng(0)
    good, bad = rng.integers(1, 5, 300), rng.integers(5, 30, 300)
    better = judge_candidate(ranks_of(good), ranks_of(bad).sample(fraction=1, shuffle=True, seed=1))
    assert better.promoted
    assert better.difference is not None
    assert better.difference.low > 0
    assert "better beyond noise" in better.reason
    worse = judge_candidate(ranks_of(bad), ranks_of(good))
    assert not worse.promoted
    assert worse.difference is not None
    assert worse.difference.high < 0


def test_noise_promotes_about_one_in_forty() -> None:
    rng = np.random.default_rng(1)
    won = [
        judge_candidate(
            ranks_of(rng.integers(1, 20, 100)), ranks_of(rng.integers(1, 20, 100))
        ).promoted
        for _ in range(60)
    ]
    assert sum(won) <= 7  # 1.5 expected; more than 7 has a chance below 0.1 %


def test_the_first_model_is_promoted(tmp_path: Path) -> None:
    ranks_of(np.array([1, 2])).write_parquet(tmp_path / "a.parquet")
    assert judge_files(tmp_path / "a.parquet", None).promoted


def test_other_validation_targets_are_not_compared() -> None:
    verdict = judge_candidate(ranks_of(np.ones(100)), ranks_of(np.full(100, 50), first=60))
    assert not verdict.promoted
    assert "40 of 100" in verdict.reason


def test_users_with_another_target_are_not_compared() -> None:
    champion = ranks_of(np.full(100, 50))
    moved = champion.with_columns(
        item_id=pl.when(pl.int_range(pl.len()) < 20).then(pl.lit("other")).otherwise("item_id")
    )
    verdict = judge_candidate(ranks_of(np.ones(100)), moved)
    assert not verdict.promoted
    assert "80 of 100" in verdict.reason


@pytest.mark.parametrize(("n_candidate", "n_champion"), [(100, 120), (120, 100)])
def test_a_part_of_the_targets_is_not_enough_whoever_has_more(
    n_candidate: int, n_champion: int
) -> None:
    verdict = judge_candidate(ranks_of(np.ones(n_candidate)), ranks_of(np.full(n_champion, 50)))
    assert not verdict.promoted
    assert f"100 of {n_candidate}" in verdict.reason


def test_the_same_ranks_do_not_take_the_place_of_the_champion() -> None:
    ranks = np.random.default_rng(2).integers(1, 20, 100)
    verdict = judge_candidate(ranks_of(ranks), ranks_of(ranks))
    assert not verdict.promoted
    assert "not better beyond noise" in verdict.reason


def test_a_clearly_worse_model_is_called_so() -> None:
    verdict = judge_candidate(ranks_of(np.full(100, 8)), ranks_of(np.ones(100)))
    assert not verdict.promoted
    assert "users): worse beyond noise" in verdict.reason


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({"remove_seen": True}, "remove_seen is False, and True for the champion"),
        ({"n_items": 600}, "ranked among 500 items, and among 600 for the champion"),
    ],
)
def test_ranks_of_another_protocol_are_not_compared(protocol: dict[str, Any], message: str) -> None:
    verdict = judge_candidate(ranks_of(np.ones(100)), ranks_of(np.full(100, 50), **protocol))
    assert not verdict.promoted
    assert verdict.reason.startswith(f"not comparable: {message};")


@pytest.mark.parametrize("n_items", [50, 499, 520])
def test_a_catalogue_may_grow_and_shrink_a_little(n_items: int) -> None:
    champion = ranks_of(np.full(100, 50), n_items=n_items)
    assert judge_candidate(ranks_of(np.ones(100)), champion).promoted


def test_a_champion_of_an_unknown_protocol_is_not_compared() -> None:
    earlier = ranks_of(np.full(100, 50)).drop("remove_seen", "n_items")
    verdict = judge_candidate(ranks_of(np.ones(100)), earlier)
    assert not verdict.promoted
    assert "the champion's ranks do not say their remove_seen and n_items" in verdict.reason


def test_ranks_come_out_of_the_table_of_users() -> None:
    table = ranks_of(np.array([3, 4])).with_columns(
        split=pl.Series(["valid", "test"]), model=pl.lit("SICSRec")
    )
    found = validation_ranks(table, "SICSRec", remove_seen=True, n_items=7)
    assert found.select("rank", "remove_seen", "n_items").rows() == [(3, True, 7)]
    with pytest.raises(DataError, match="no validation ranks of 'other'"):
        validation_ranks(table, "other", remove_seen=True, n_items=7)
