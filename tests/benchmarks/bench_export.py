"""Recommendations for 1,000,000 users over 100,000 items, measured on a slice of 20,000 users.

Run with ``pytest -m bench -s tests/benchmarks/bench_export.py``. What it takes for all users is
multiplied up from the difference between the slice and a quarter of it, so that reading the model
does not count. ``SICSREC_EXPORT_USERS`` sets the users of the slice.
"""

import os

import pytest

from tests.benchmarks.child import measure
from tests.benchmarks.export import TOP_K

pytestmark = [pytest.mark.bench, pytest.mark.timeout(7200)]

ALL_USERS, N_ITEMS = 1_000_000, 100_000
SLICE = int(os.environ.get("SICSREC_EXPORT_USERS", "20000"))


@pytest.mark.parametrize("score", ["sicsrec", "blend"])
def test_memory_does_not_grow_with_the_users(score, capsys):
    few, many = (
        measure("export:export_users", n_users=n, n_items=N_ITEMS, score=score)
        for n in (SLICE // 4, SLICE)
    )
    users = SLICE - SLICE // 4
    seconds = {clock: (many[clock] - few[clock]) / users for clock in ("process", "wall")}
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{score}, {N_ITEMS:,} items: {1 / seconds['process']:,.0f} users per second of "
            f"processor time, {1 / seconds['wall']:,.0f} by the clock; peak of memory "
            f"{few['megabytes']:,.0f} MB with {SLICE // 4:,} users, {many['megabytes']:,.0f} MB "
            f"with {SLICE:,}; {ALL_USERS:,} users: {seconds['process'] * ALL_USERS / 3600:.1f} "
            f"hours of one thread, {many['file_megabytes'] * ALL_USERS / SLICE:,.0f} MB of Parquet",
            end="",
        )
    assert many["rows"] == TOP_K * SLICE
    assert many["megabytes"] - few["megabytes"] < 100


def test_a_log_of_a_million_users_is_read_in_the_memory_of_a_small_one(capsys):
    few, many = (measure("export:read_log", n_users=n, n_items=N_ITEMS) for n in (SLICE, ALL_USERS))
    with capsys.disabled():
        print(  # noqa: T201
            f"\nread {many['users']:,} histories of {many['interactions']:,} interactions twice: "
            f"{many['process']:.1f} s of processor time; peak of memory {few['megabytes']:,.0f} MB "
            f"with {few['users']:,} users, {many['megabytes']:,.0f} MB with all",
            end="",
        )
    assert many["users"] == ALL_USERS
    assert many["megabytes"] - few["megabytes"] < 150
