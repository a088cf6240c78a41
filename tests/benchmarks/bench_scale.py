"""Cost of training as users and items grow, on generated histories, and a million items in memory.

Run with ``pytest -m bench -s tests/benchmarks/bench_scale.py``; it takes a quarter of an hour and
about 6 GB. ``SICSREC_MILLION_TARGETS`` sets the targets of the step at a million items.
"""

import os

import pytest

from tests.benchmarks.child import measure

pytestmark = [pytest.mark.bench, pytest.mark.timeout(7200)]

N_USERS = 6_549
N_ITEMS = 1_579
MILLION_TARGETS = int(os.environ.get("SICSREC_MILLION_TARGETS", "4096"))


@pytest.mark.parametrize("n_sampled", [None, 16_384])
def test_a_step_at_a_million_items_adds_less_than_a_gigabyte(n_sampled, capsys):
    found = measure(
        "stage_two:train_generated",
        step=1,
        n_users=20_000,
        n_items=1_000_000,
        n_batches=2,
        batch_targets=MILLION_TARGETS,
        n_sampled=n_sampled,
    )
    # Adam's moments first exist after the first batch, so the second one has the peak.
    added = found["megabytes"] - found["table_megabytes"]
    with capsys.disabled():
        print(  # noqa: T201
            f"\n1,000,000 items, {found['targets'] / 2:,.0f} targets, "
            f"{'full softmax' if n_sampled is None else f'{n_sampled:,} sampled'}: "
            f"{found['process'] / 2:.1f} s of processor time, {added:,.0f} MB beside the "
            f"{found['table_megabytes']:,.0f} MB of item table, gradient and optimiser",
            end="",
        )
    assert added < 1000


def test_cost_as_users_and_items_grow(capsys):
    # Step, users, items, batches, sampled.
    cases = [
        *((step, N_USERS * n, N_ITEMS, 10, None) for step in (1, 2) for n in (1, 10, 100)),
        *((step, N_USERS, n, 3, None) for step in (1, 2) for n in (1_000, 10_000, 100_000)),
        (1, N_USERS, 1_000_000, 2, None),
        (1, N_USERS, 1_000_000, 2, 16_384),
    ]
    with capsys.disabled():
        print("\nstep     users     items softmax   s/batch    s/epoch     MB", end="")  # noqa: T201
        for step, n_users, n_items, n_batches, n_sampled in cases:
            found = measure(
                "stage_two:train_generated",
                step=step,
                n_users=n_users,
                n_items=n_items,
                n_batches=n_batches,
                n_sampled=n_sampled,
            )
            softmax = "full" if n_sampled is None else f"{n_sampled:,}"
            print(  # noqa: T201
                f"\n{step:4} {n_users:9,} {n_items:9,} {softmax:>7}"
                f" {found['process'] / n_batches:9.2f} {found['epoch_process']:10.1f}"
                f" {found['megabytes']:6,.0f}",
                end="",
            )
            assert found["targets"] > 0
