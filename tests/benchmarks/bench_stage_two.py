"""Training of stage 2 on Bili_Food against the usual rows of prefixes, and its share of matmul.

The rival is what the field does: every prefix of every history is a row padded to 50 tokens, with
one target; batches of 1,024 rows; softmax over all items; content adapted for every token. Widths,
layers, losses and optimiser are the same. Each side runs in its own process.

Run with ``pytest -m bench -s tests/benchmarks/bench_stage_two.py``. Processor time is what to
compare on a machine that others use too; it is that of one thread, since idle threads that wait for
others would count. ``SICSREC_RIVAL_BATCHES`` says how many batches of the rival are timed.
``SICSREC_DEVICE=cuda`` measures a GPU, by the clock, memory being that of its tensors.
"""

import os
import shutil
from pathlib import Path

import pytest

from tests.benchmarks.child import measure
from tests.benchmarks.stage_two import BATCH, CLOCK, DEVICE

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

ON_GPU = DEVICE.type == "cuda"
WARM_UP, PACKED_BATCHES = (40, 200) if ON_GPU else (3, 20)
RIVAL_BATCHES = int(os.environ.get("SICSREC_RIVAL_BATCHES", "20" if ON_GPU else "2"))


@pytest.fixture
def data(real_data: Path) -> str:
    needed = [
        "ninerec/Bili_Food/sequential_data.txt",
        "features/Bili_Food_text.npy",
        "features/Bili_Food_second.npy",
    ]
    missing = [name for name in needed if not (real_data / name).exists()]
    if missing:
        pytest.skip(f"{real_data} has no {', '.join(missing)}")
    return str(real_data)


def measure_packed(
    step: int,
    data: str,
    precision: str = "float32",
    *,
    compiled: bool = False,
    n_targets: int = BATCH,
) -> dict[str, float]:
    """Measure the library's own training."""
    return measure(
        "stage_two:train_bili_food",
        step=step,
        side="packed",
        data=data,
        n_warm_up=WARM_UP,
        n_batches=PACKED_BATCHES,
        precision=precision,
        compiled=compiled,
        n_targets=n_targets,
    )


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("n_targets", [BATCH, 8 * BATCH] if ON_GPU else [BATCH])
@pytest.mark.parametrize("step", [1, 2])
def test_compiled_by_torch(step, n_targets, data, capsys):
    # A compiler saves the casts of bfloat16, so that is where it has most to gain on a GPU.
    precision = "bfloat16" if ON_GPU else "float32"
    found = {
        compiled: measure_packed(step, data, precision, compiled=compiled, n_targets=n_targets)
        for compiled in (True, False)
    }
    rates = {side: values["targets"] / values[CLOCK] for side, values in found.items()}
    with capsys.disabled():
        print(  # noqa: T201
            f"\nstep {step}, batches of {n_targets:,}: {rates[True]:,.0f} targets per second with "
            f"torch.compile, {rates[False]:,.0f} without, {rates[True] / rates[False]:.2f} x",
            end="",
        )
    # Dropout draws other numbers, so losses are alike, not equal.
    assert found[True]["loss"] == pytest.approx(found[False]["loss"], rel=0.05)


@pytest.mark.parametrize("n_targets", [BATCH, 8 * BATCH] if ON_GPU else [BATCH])
@pytest.mark.parametrize("step", [1, 2])
def test_half_precision(step, n_targets, data, capsys):
    found = {
        name: measure_packed(step, data, name, n_targets=n_targets)
        for name in ("float32", "bfloat16")
    }
    rates = {name: values["targets"] / values[CLOCK] for name, values in found.items()}
    with capsys.disabled():
        print(  # noqa: T201
            f"\nstep {step}, batches of {n_targets:,}: {rates['bfloat16']:,.0f} targets per second "
            f"in bfloat16, {rates['float32']:,.0f} in float32, "
            f"{rates['bfloat16'] / rates['float32']:.2f} x; "
            f"loss of the last batch {found['bfloat16']['loss']:.4f} and "
            f"{found['float32']['loss']:.4f}",
            end="",
        )
    assert found["bfloat16"]["loss"] == pytest.approx(found["float32"]["loss"], rel=0.02)


@pytest.mark.parametrize(("step", "bar"), [(1, 30), (2, 40)])
def test_packed_training_against_rows_of_prefixes(step, bar, data, capsys):
    found = {
        "packed": measure_packed(step, data),
        "prefixes": measure(
            "stage_two:train_bili_food",
            step=step,
            side="prefixes",
            data=data,
            n_warm_up=3 if ON_GPU else 0,
            n_batches=RIVAL_BATCHES,
        ),
    }
    with capsys.disabled():
        for side, values in found.items():
            print(  # noqa: T201
                f"\nstep {step}, {side}: {values['targets'] / values['process']:,.1f} targets per "
                f"second of processor time, {values['targets'] / values['wall']:,.1f} of wall time "
                f"({values['targets']} targets), {values['megabytes']:,.0f} MB",
                end="",
            )
        rates = {
            clock: [found[s]["targets"] / found[s][clock] for s in ("packed", "prefixes")]
            for clock in ("process", "wall")
        }
        memory = found["packed"]["megabytes"] / found["prefixes"]["megabytes"]
        print(  # noqa: T201
            f"\nstep {step}: {rates['process'][0] / rates['process'][1]:.1f} x by processor time, "
            f"{rates['wall'][0] / rates['wall'][1]:.1f} x by wall time (bar: {bar}), "
            f"{memory:.3f} of the memory",
            end="",
        )
    assert rates[CLOCK][0] > 5 * rates[CLOCK][1]
    assert memory < 0.5


@pytest.mark.skipif(ON_GPU, reason="a small model's step is bound by its launches there")
@pytest.mark.parametrize("step", [1, 2])
def test_share_of_the_matmul_rate(step, data, capsys):
    found = measure("stage_two:share_of_matmul", step=step, data=data)
    with capsys.disabled():
        print(  # noqa: T201
            f"\nstep {step}: {found['flop'] / 1e9:.1f} GFLOP per batch, "
            f"{found['achieved'] / 1e9:.1f} GFLOP/s = {found['achieved'] / found['matmul']:.0%} of "
            f"the {found['matmul'] / 1e9:.1f} of a product of 1024 x 1024 matrices; "
            f"{found['in_products'] / 1e9:.1f} within its own products, which reach "
            f"{found['alone'] / 1e9:.1f} when repeated alone. Time by operation: "
            + ", ".join(f"{name} {share:.0%}" for name, share in found["shares"].items()),
            end="",
        )
    assert 0 < found["achieved"] < found["matmul"]
