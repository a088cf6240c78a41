"""One million vectors of 512 numbers from Parquet to a tensor.

Run with ``pytest -m bench -s tests/benchmarks/bench_vectors.py``; writes 2 GB to the temporary
folder and needs about 3 GB of memory.
"""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

PROGRAM = """
import resource, sys, time
from pathlib import Path
import numpy as np
import polars as pl
from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.vectors import read_vectors, write_vectors

n, width, folder, mode = 1_000_000, 512, Path(sys.argv[1]), sys.argv[2]
nothing = pl.Series([None] * n, dtype=pl.String)
catalog = ItemCatalog(pl.DataFrame({
    "item_id": [f"item-{row}" for row in range(n)],
    "item_index": pl.Series(range(1, n + 1), dtype=pl.Int32),
    "title": nothing, "description": nothing, "text": nothing, "language": nothing,
    "topics": pl.Series([None] * n, dtype=pl.List(pl.String)),
    "image_path": nothing, "image_status": ["missing"] * n,
}))
indices = np.arange(1, n + 1, dtype=np.int32)
started = time.perf_counter()
if mode == "write":
    rng = np.random.default_rng(0)
    parts = (rng.standard_normal((10_000, width), dtype=np.float32) for _ in range(n // 10_000))
    write_vectors(folder, "text", catalog, indices, parts)
else:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    vectors = read_vectors(folder, "text", catalog)
    assert vectors.tensor.shape == (n, width) and vectors.present.all()
    first = np.random.default_rng(0).standard_normal((1, width), dtype=np.float32)
    assert np.array_equal(vectors.matrix[:1], first)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print((peak - before) / vectors.matrix.nbytes, peak / vectors.matrix.nbytes)
print(time.perf_counter() - started)
"""


def run(folder: Path, mode: str) -> list[float]:
    command = [sys.executable, "-c", PROGRAM, str(folder), mode]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def test_a_million_vectors_load_in_seconds(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (write_seconds,) = run(tmp_path, "write")
    added, peak, read_seconds = run(tmp_path, "read")
    with capsys.disabled():
        print(  # noqa: T201
            f"\n1,000,000 x 512 float32: written in {write_seconds:.1f} s, read to a tensor in "
            f"{read_seconds:.1f} s; reading adds {added:.2f} times the bytes of the matrix to the "
            f"peak of memory, which is {peak:.2f} times them with catalogue and libraries"
        )
    assert added < 1.5
    assert read_seconds < 30
