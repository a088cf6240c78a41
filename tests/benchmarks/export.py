"""Recommendations of generated users by generated models, to be measured."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from sicsrec.data.logged_histories import LoggedHistories
from sicsrec.models.blend import Blend, HistoryFacts
from sicsrec.recommender import Recommender
from sicsrec.recommender.files import write_files
from tests.benchmarks.child import memory
from tests.benchmarks.stage_two import generated, make_model

WIDTHS = {"text": 384, "image": 512}
MEAN_LENGTH, LONGEST = 20, 200
WRITTEN_USERS = 10_000
TOP_K = 20


def item_ids(n_items: int) -> list[str]:
    return [f"v{item:07d}" for item in range(1, n_items + 1)]


@contextmanager
def written_log(n_users: int, n_items: int) -> Iterator[Path]:
    """Write a log as ingest does, some users at a time, with items of a skewed popularity."""
    rng = np.random.default_rng(0)
    schema = pa.schema([("user_id", pa.large_string()), ("item_id", pa.large_string())])
    ids = pl.Series(item_ids(n_items))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "interactions.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for start in range(0, n_users, WRITTEN_USERS):
                users = pl.Series(
                    [f"u{user:08d}" for user in range(start, min(start + WRITTEN_USERS, n_users))]
                )
                lengths = np.minimum(rng.geometric(1 / MEAN_LENGTH, len(users)), LONGEST)
                items = (n_items * rng.random(lengths.sum()) ** 3).astype(np.int64)
                frame = pl.DataFrame(
                    {
                        "user_id": users.gather(np.repeat(np.arange(len(users)), lengths)),
                        "item_id": ids.gather(items),
                    }
                )
                writer.write_table(frame.to_arrow().cast(schema))
        yield path


def make_recommender(n_items: int, score: str) -> Recommender:
    """Return SICSRec with random weights, ranked by itself or by a blend of all features."""
    rng = np.random.default_rng(1)
    vectors = {
        modality: rng.standard_normal((n_items, width), dtype=np.float32)
        for modality, width in WIDTHS.items()
    }
    model = make_model(2, n_items, vectors).eval()
    items = pl.DataFrame(
        {
            "item_id": item_ids(n_items),
            "item_index": pl.Series(range(1, n_items + 1), dtype=pl.Int32),
        }
    )
    if score == "sicsrec":
        return Recommender(model, items)
    encoder = make_model(1, n_items, {}).eval()
    train = generated(100_000, n_items)
    blend = Blend([encoder, model], HistoryFacts.from_training(train, n_items, vectors))
    blend.weights = {name: 0.1 for name, _ in blend.features(train.take(np.arange(1)))}
    return Recommender(model, items, blend)


def export_users(n_users: int, n_items: int, score: str) -> dict[str, float]:
    """Write the recommendations of all users of a log."""
    with written_log(n_users, n_items) as log:
        recommender = make_recommender(n_items, score)
        histories = LoggedHistories(log, recommender.item_ids)
        wall, process = time.perf_counter(), time.process_time()
        (path,) = write_files(recommender, histories, "parquet", log.parent / "out", k=TOP_K)
        return {
            "wall": time.perf_counter() - wall,
            "process": time.process_time() - process,
            "megabytes": memory("VmHWM"),
            "rows": pq.read_metadata(path).num_rows,
            "file_megabytes": path.stat().st_size / 1e6,
        }


def read_log(n_users: int, n_items: int) -> dict[str, float]:
    """Read the histories of all users of a log, twice: to count them, and in chunks."""
    with written_log(n_users, n_items) as log:
        histories = LoggedHistories(log, item_ids(n_items))
        wall, process = time.perf_counter(), time.process_time()
        users, interactions = len(histories), 0
        for chunk in histories.chunks(8192):
            interactions += len(chunk.items)
        return {
            "wall": time.perf_counter() - wall,
            "process": time.process_time() - process,
            "megabytes": memory("VmHWM"),
            "users": users,
            "interactions": interactions,
        }
