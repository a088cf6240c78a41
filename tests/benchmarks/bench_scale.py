"""Cost of training as users and items grow, on generated histories; a million items in memory.

Run with ``pytest -m bench -s tests/benchmarks/bench_scale.py``; it takes about ten minutes of one
core and 12 GB. An epoch is what is made once for it plus a few of its batches of 1,024 targets
multiplied up; all is processor time of one thread, or by the clock with ``SICSREC_DEVICE=cuda``.
``SICSREC_MILLION_TARGETS`` sets the targets of the step at a million items.
"""

import os

import numpy as np
import pytest

from tests.benchmarks.child import measure
from tests.benchmarks.stage_two import CLOCK

pytestmark = [pytest.mark.bench, pytest.mark.timeout(7200)]

N_USERS = 6_549
N_ITEMS = 1_579
MILLION_TARGETS = int(os.environ.get("SICSREC_MILLION_TARGETS", "4096"))


@pytest.mark.parametrize("n_sampled", [None, 16_384])
@pytest.mark.parametrize("step", [1, 2])
def test_a_step_at_a_million_items_adds_less_than_a_gigabyte(step, n_sampled, capsys):
    found = measure(
        "stage_two:train_generated",
        step=step,
        n_users=20_000,
        n_items=1_000_000,
        n_batches=1,
        batch_targets=MILLION_TARGETS,
        n_sampled=n_sampled,
    )
    added = found["megabytes"] - found["tables_megabytes"]
    with capsys.disabled():
        print(  # noqa: T201
            f"\nstep {step}, 1,000,000 items, {found['targets']:,} targets, "
            f"{'full softmax' if n_sampled is None else f'{n_sampled:,} sampled'}: "
            f"{found[CLOCK]:.2f} s ({CLOCK}), {added:,.0f} MB beside the "
            f"{found['tables_megabytes']:,.0f} MB of tables, gradients and optimiser",
            end="",
        )
    assert added < 1000


def test_cost_as_users_and_items_grow(capsys):
    # Step, users, items, batches, sampled.
    cases = [
        *((step, N_USERS * n, N_ITEMS, 10, None) for step in (1, 2) for n in (1, 10, 100)),
        *((step, N_USERS, n, 3, None) for step in (1, 2) for n in (1_000, 10_000, 100_000)),
        (1, N_USERS, 1_000_000, 1, None),
        (1, N_USERS, 1_000_000, 1, 16_384),
        (2, N_USERS, 1_000_000, 1, 16_384),
    ]
    by_users: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    with capsys.disabled():
        print(  # noqa: T201
            "\nstep     users     items   targets softmax   s/batch    s/epoch     MB", end=""
        )
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
                f"\n{step:4} {n_users:9,} {n_items:9,} {found['epoch_targets']:9,} {softmax:>7}"
                f" {found[CLOCK] / n_batches:9.3f} {found['epoch_process']:10.1f}"
                f" {found['megabytes']:6,.0f}",
                end="",
            )
            if n_items == N_ITEMS:
                by_users[step].append((found["epoch_targets"], found["epoch_process"]))
        for step, points in by_users.items():
            targets, seconds = np.log(points).T
            exponent = np.polyfit(targets, seconds, 1)[0]
            print(f"\nstep {step}: seconds per epoch ~ targets^{exponent:.2f}", end="")  # noqa: T201
            assert exponent < 1.2
