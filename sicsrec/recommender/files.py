"""Writes what a model gives for other programs: recommendations, vectors, an index, a network."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from sicsrec.data.sequences import Histories
from sicsrec.disk_space import is_disk_full, naming_full_disk
from sicsrec.errors import ConfigError
from sicsrec.evaluation.ranking import recommend
from sicsrec.liveness import is_abandoned, process_tags
from sicsrec.paths import check_utf8
from sicsrec.progress import NoProgress, Progress
from sicsrec.recommender.model import CHUNK_USERS, Recommender
from sicsrec.recommender.onnx_model import write_onnx
from sicsrec.recommender.tables import (
    RECOMMENDATIONS,
    recommendation_table,
    warn_of_users_without,
)

Format = Literal["parquet", "jsonl", "npy", "faiss", "onnx"]
FORMATS: tuple[Format, ...] = ("parquet", "jsonl", "npy", "faiss", "onnx")
ITEM_IDS_FILE = "item_ids.json"
_UNFINISHED = ".sicsrec-"
_WRITER = "writer.json"


@runtime_checkable
class ManyHistories(Protocol):
    """Histories of many users, in memory or on disk, none of them empty."""

    def __len__(self) -> int:
        """Return the number of users."""
        ...

    def chunks(self, n_users: int) -> Iterator[Histories]:
        """Yield the histories of ``n_users`` users after the other."""
        ...


def write_files(
    recommender: Recommender,
    histories: ManyHistories,
    kind: Format,
    folder: Path,
    *,
    k: int = 20,
    remove_seen: bool = True,
    progress: Progress | None = None,
    chunk_users: int = CHUNK_USERS,
) -> list[Path]:
    """Write one kind of files.

    ``parquet`` and ``jsonl``: recommendations of every user; those for whom nothing is left
    have none, and how many they are is logged. Users are taken in chunks, so that memory does not
    grow with their number. ``npy``: vectors of items and of users, whose dot
    product is the model's own score. ``faiss``: an index of the item vectors that is searched with
    user vectors by inner product; its ids are item indices. ``onnx``: the model, histories to
    scores. Beside the last three lies ``item_ids.json``: entry r is the id of item index r + 1.

    Files of the same name that lie there already are replaced once the new ones are whole. What
    killed processes of this host left there unfinished is removed.

    Args:
        recommender: the model.
        histories: of all users.
        kind: which files.
        folder: where to; created when needed.
        k: most recommendations per user.
        remove_seen: leave out what a user has watched.
        progress: shows how far it is.
        chunk_users: users at once.

    Returns:
        The files.

    Raises:
        ConfigError: if the folder cannot be made or is not named in UTF-8, or the extra that a
            format needs is not installed.
        DiskFullError: if they do not fit.
    """
    check_utf8(str(folder.absolute()), "the folder of the files")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ConfigError(f"the folder {folder} cannot be made: {err.strerror}") from err
    shown = progress or NoProgress()
    with naming_full_disk(folder, kind), _folder_within(folder) as new:
        if kind in ("parquet", "jsonl"):
            _write_recommendations(
                recommender, histories, kind, new, k, remove_seen, shown, chunk_users
            )
        else:
            ids = json.dumps(recommender.item_ids, ensure_ascii=False)
            (new / ITEM_IDS_FILE).write_text(ids, encoding="utf-8")
        if kind == "npy":
            _write_vectors(recommender, histories, new, shown, chunk_users)
        elif kind == "faiss":
            _write_index(recommender, new / "items.faiss")
        elif kind == "onnx":
            write_onnx(recommender.model, new / "model.onnx")
        return [path.replace(folder / path.name) for path in sorted(new.iterdir())]


@contextmanager
def _folder_within(folder: Path) -> Iterator[Path]:
    """Yield an empty folder for files that are not whole yet; it says which process writes it."""
    _remove_abandoned(folder)
    try:
        unfinished = tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=folder)
    except OSError as err:
        if is_disk_full(err, folder):
            raise
        raise ConfigError(f"nothing can be written to {folder}: {err.strerror}") from err
    with unfinished as name:
        (Path(name) / _WRITER).write_text(json.dumps(process_tags()), encoding="utf-8")
        new = Path(name) / "files"
        new.mkdir()
        yield new


def _remove_abandoned(folder: Path) -> None:
    """Remove what processes that were killed left of their files."""
    for writer in folder.glob(f"{_UNFINISHED}*/{_WRITER}"):
        # Another export may be done, or at its very beginning, while this one looks.
        with suppress(OSError, ValueError):
            if is_abandoned(json.loads(writer.read_text(encoding="utf-8"))):
                shutil.rmtree(writer.parent)


def _write_recommendations(
    recommender: Recommender,
    histories: ManyHistories,
    kind: Format,
    folder: Path,
    k: int,
    remove_seen: bool,
    progress: Progress,
    chunk_users: int,
) -> None:
    path = folder / f"recommendations.{kind}"
    ids = pl.Series("item_id", recommender.item_ids)
    n_without = 0
    with _writer(kind, path) as write, progress.stage("recommend", len(histories)) as advance:
        for chunk in histories.chunks(chunk_users):
            found = recommend(
                recommender.scorer, chunk, k, remove_seen=remove_seen, advance=advance
            )
            n_without += int((found[0] == 0).all(axis=1).sum())
            write(recommendation_table(chunk.user_ids, ids, *found))
    warn_of_users_without(n_without, len(histories), len(ids))


@contextmanager
def _writer(kind: Format, path: Path) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Open a table of recommendations."""
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
    histories: ManyHistories,
    folder: Path,
    progress: Progress,
    chunk_users: int,
) -> None:
    model = recommender.model
    items = model.item_vectors().detach().float().cpu().numpy()
    np.save(folder / "items.npy", items)
    users = np.lib.format.open_memmap(
        folder / "users.npy", mode="w+", dtype=np.float32, shape=(len(histories), items.shape[1])
    )
    start, user_ids = 0, [pl.Series("user_id", [], dtype=pl.String)]
    with progress.stage("user vectors", len(histories)) as advance:
        for chunk in histories.chunks(chunk_users):
            users[start : start + len(chunk)] = model.user_vectors(chunk).float().cpu().numpy()
            user_ids.append(chunk.user_ids)
            start += len(chunk)
            advance(len(chunk))
    users.flush()
    pl.DataFrame({"user_id": pl.concat(user_ids)}).write_parquet(folder / "user_ids.parquet")


def _write_index(recommender: Recommender, path: Path) -> None:
    try:
        import faiss
    except ImportError as err:
        raise ConfigError("a faiss index needs pip install '.[faiss]'") from err
    vectors = recommender.model.item_vectors().detach().float().cpu().numpy()
    index = faiss.IndexIDMap(faiss.IndexFlatIP(vectors.shape[1]))
    index.add_with_ids(np.ascontiguousarray(vectors), np.arange(1, len(vectors) + 1))
    faiss.write_index(index, str(path))
