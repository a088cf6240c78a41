"""Writes what a model gives for other programs: recommendations, vectors, an index, a network."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from sicsrec.data.sequences import Histories
from sicsrec.errors import ConfigError
from sicsrec.evaluation.ranking import recommend
from sicsrec.progress import NoProgress, Progress
from sicsrec.recommender.model import CHUNK_USERS, Recommender
from sicsrec.recommender.onnx_model import write_onnx
from sicsrec.recommender.tables import RECOMMENDATIONS, recommendation_table

Format = Literal["parquet", "jsonl", "npy", "faiss", "onnx"]
FORMATS: tuple[Format, ...] = ("parquet", "jsonl", "npy", "faiss", "onnx")
ITEM_IDS_FILE = "item_ids.json"


def write_files(
    recommender: Recommender,
    histories: Histories,
    kind: Format,
    folder: Path,
    *,
    k: int = 20,
    remove_seen: bool = True,
    progress: Progress | None = None,
    chunk_users: int = CHUNK_USERS,
) -> list[Path]:
    """Write one kind of files.

    ``parquet`` and ``jsonl``: recommendations of every user, in chunks of users, so that memory
    does not grow with their number. ``npy``: vectors of items and of users, whose dot product is
    the model's own score. ``faiss``: an index of the item vectors that is searched with user
    vectors by inner product; its ids are item indices. ``onnx``: the model, histories to scores.
    Beside the last three lies ``item_ids.json``: entry r is the id of item index r + 1.

    Args:
        recommender: the model.
        histories: of all users, as :meth:`Recommender.histories` gives them; users with an empty
            history get no recommendations.
        kind: which files.
        folder: where to; created when needed.
        k: most recommendations per user.
        remove_seen: leave out what a user has watched.
        progress: shows how far it is.
        chunk_users: users at once.

    Returns:
        The files.

    Raises:
        ConfigError: if the extra that a format needs is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = progress or NoProgress()
    if kind in ("parquet", "jsonl"):
        path = folder / f"recommendations.{kind}"
        some = histories.take(np.flatnonzero(histories.lengths > 0))
        with _writer(kind, path) as write, shown.stage("recommend", len(some)) as advance:
            for chunk in some.chunks(chunk_users):
                found = recommend(
                    recommender.scorer, chunk, k, remove_seen=remove_seen, advance=advance
                )
                ids = pl.Series("item_id", recommender.item_ids)
                write(recommendation_table(chunk.user_ids, ids, *found))
        return [path]
    ids_path = folder / ITEM_IDS_FILE
    ids_path.write_text(json.dumps(recommender.item_ids, ensure_ascii=False), encoding="utf-8")
    if kind == "npy":
        return [ids_path, *_write_vectors(recommender, histories, folder, shown, chunk_users)]
    if kind == "faiss":
        return [ids_path, _write_index(recommender, folder / "items.faiss")]
    write_onnx(recommender.model, folder / "model.onnx")
    return [ids_path, folder / "model.onnx"]


@contextmanager
def _writer(kind: Format, path: Path) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Open a table of recommendations; what was written before an error is left as it is."""
    if kind == "parquet":
        with pq.ParquetWriter(path, RECOMMENDATIONS, compression="zstd") as writer:
            yield lambda table: writer.write_table(table.to_arrow().cast(RECOMMENDATIONS))
        return
    with path.open("wb") as stream:

        def write_lines(table: pl.DataFrame) -> None:
            per_user = table.group_by("user_id", maintain_order=True).agg("item_id", "score")
            per_user.write_ndjson(stream)

        yield write_lines


def _write_vectors(
    recommender: Recommender,
    histories: Histories,
    folder: Path,
    progress: Progress,
    chunk_users: int,
) -> list[Path]:
    model = recommender.model
    items = model.item_vectors().detach().float().cpu().numpy()
    np.save(folder / "items.npy", items)
    users = np.lib.format.open_memmap(
        folder / "users.npy", mode="w+", dtype=np.float32, shape=(len(histories), items.shape[1])
    )
    start = 0
    with progress.stage("user vectors", len(histories)) as advance:
        for chunk in histories.chunks(chunk_users):
            users[start : start + len(chunk)] = model.user_vectors(chunk).float().cpu().numpy()
            start += len(chunk)
            advance(len(chunk))
    users.flush()
    pl.DataFrame({"user_id": histories.user_ids}).write_parquet(folder / "user_ids.parquet")
    return [folder / name for name in ("items.npy", "users.npy", "user_ids.parquet")]


def _write_index(recommender: Recommender, path: Path) -> Path:
    try:
        import faiss
    except ImportError as err:
        raise ConfigError("a faiss index needs pip install '.[faiss]'") from err
    vectors = recommender.model.item_vectors().detach().float().cpu().numpy()
    index = faiss.IndexIDMap(faiss.IndexFlatIP(vectors.shape[1]))
    index.add_with_ids(np.ascontiguousarray(vectors), np.arange(1, len(vectors) + 1))
    faiss.write_index(index, str(path))
    return path
