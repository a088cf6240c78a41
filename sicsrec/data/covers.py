"""The covers of a catalogue: checked once, kept as RGB image files in Parquet, read by item id.

``covers-00000.parquet``, ``covers-00001.parquet`` ... hold them in the order of the item index, in
row groups small enough that a few of them fit into memory whatever the size of the catalogue.
"""

import warnings
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from stat import S_ISREG

import polars as pl
import pyarrow.parquet as pq
from PIL import Image

from sicsrec.artifacts import is_hidden
from sicsrec.cores import usable_cores
from sicsrec.data.images import (
    CoverError,
    CoverLimits,
    StoredCover,
    only_own_limit,
    open_cover,
    prepare_cover,
)
from sicsrec.data.quarantine import QuarantineLog
from sicsrec.data.schema import COVERS
from sicsrec.data.videos import VIDEO_SUFFIXES, take_frame
from sicsrec.errors import DataError, SchemaError
from sicsrec.progress import Advance

_SHARD_BYTES = 64 << 20
_ROWS_PER_GROUP = 16
_CACHE_BYTES = 64 << 20


class CoverStore:
    """Reads verified covers by item id, a few row groups at a time.

    Args:
        folder: where :class:`CoverWriter` put the shards.
        cache_bytes: image bytes kept in memory; small catalogues fit whole.

    Raises:
        DataError: if the folder holds no shard or an item has two covers.
        SchemaError: if a shard is not a table of covers.
    """

    def __init__(self, folder: Path, cache_bytes: int = _CACHE_BYTES) -> None:
        paths = sorted(folder.glob("covers-*.parquet"))
        if not paths:
            raise DataError(f"{folder} holds no covers-*.parquet")
        self._paths = paths
        self._place: dict[str, tuple[int, int, int]] = {}
        for shard, path in enumerate(paths):
            self._index_shard(shard, path)
        self._cache: OrderedDict[tuple[int, int], list[bytes]] = OrderedDict()
        self._cached_bytes = 0
        self._cache_bytes = cache_bytes

    def _index_shard(self, shard: int, path: Path) -> None:
        with pq.ParquetFile(path) as table:
            if table.schema_arrow.names != list(COVERS):
                raise SchemaError(f"{path}: expected the columns {list(COVERS)}")
            ids = iter(table.read(columns=["item_id"])["item_id"].to_pylist())
            sizes = [table.metadata.row_group(g).num_rows for g in range(table.num_row_groups)]
        for group, n_rows in enumerate(sizes):
            for row, item_id in enumerate(islice(ids, n_rows)):
                if item_id in self._place:
                    raise DataError(f"{path}: item {item_id!r} has two covers")
                self._place[item_id] = (shard, group, row)

    def __len__(self) -> int:
        """Return the number of covers."""
        return len(self._place)

    def __contains__(self, item_id: object) -> bool:
        """Return whether the item has a usable cover."""
        return item_id in self._place

    @property
    def item_ids(self) -> list[str]:
        """Ids of the items with a cover, in the order of the item index."""
        return list(self._place)

    def read_bytes(self, item_ids: Sequence[str]) -> list[bytes]:
        """Return the image files of some items, in the order asked for.

        Raises:
            DataError: if an item has no cover; ask with ``item_id in store`` first.
        """
        without = [item_id for item_id in item_ids if item_id not in self._place]
        if without:
            raise DataError(f"{len(without)} items have no cover, e.g. {without[:3]}")
        found: dict[str, bytes] = {}
        for item_id in sorted(set(item_ids), key=self._place.__getitem__):
            shard, group, row = self._place[item_id]
            found[item_id] = self._read_group(shard, group)[row]
        return [found[item_id] for item_id in item_ids]

    def read(self, item_ids: Sequence[str]) -> list[Image.Image]:
        """Return the covers of some items as RGB images, in the order asked for.

        Raises:
            DataError: if an item has no cover; ask with ``item_id in store`` first.
        """
        return [open_cover(content) for content in self.read_bytes(item_ids)]

    def read_digests(self) -> dict[str, str]:
        """Return the SHA-256 of every cover by item id."""
        digests: dict[str, str] = {}
        for path in self._paths:
            table = pq.read_table(path, columns=["item_id", "sha256"])
            ids, values = table["item_id"].to_pylist(), table["sha256"].to_pylist()
            digests |= dict(zip(ids, values, strict=True))
        return digests

    def _read_group(self, shard: int, group: int) -> list[bytes]:
        key = (shard, group)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        # Opened anew each time: a large catalogue has more shards than a process may have files.
        with pq.ParquetFile(self._paths[shard]) as table:
            column = table.read_row_group(group, columns=["image"])["image"]
        images: list[bytes] = column.to_pylist()
        self._cache[key] = images
        self._cached_bytes += sum(map(len, images))
        while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= sum(map(len, dropped))
        return images


class CoverWriter:
    """Writes covers in the order given, shard by shard; equal input gives equal bytes.

    Args:
        folder: where the shards go.
        shard_bytes: image bytes after which a shard is closed; what is held in memory.
    """

    def __init__(self, folder: Path, shard_bytes: int = _SHARD_BYTES) -> None:
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._rows: list[tuple[str, str, bytes]] = []
        self._n_bytes = 0
        self._n_shards = 0

    def add(self, item_id: str, cover: StoredCover) -> None:
        """Append one cover."""
        self._rows.append((item_id, cover.sha256, cover.image))
        self._n_bytes += len(cover.image)
        if self._n_bytes >= self._shard_bytes:
            self._write()

    def close(self) -> None:
        """Write what is left; a catalogue without covers gets one empty shard."""
        if self._rows or not self._n_shards:
            self._write()

    def _write(self) -> None:
        frame = pl.DataFrame(self._rows, schema=dict(COVERS), orient="row")
        # Images are compressed already.
        frame.write_parquet(
            self._folder / f"covers-{self._n_shards:05d}.parquet",
            compression="uncompressed",
            statistics=False,
            row_group_size=_ROWS_PER_GROUP,
        )
        self._rows, self._n_bytes = [], 0
        self._n_shards += 1


@dataclass(frozen=True)
class CoverFile:
    """The cover file of one item."""

    item_id: str
    path: str
    """Relative to the data folder."""


@dataclass(frozen=True)
class CoverOutcome:
    """What became of the cover files."""

    status: dict[str, str]
    """Item id to ``ok``, ``missing`` or ``broken``; items that were never looked for are absent."""
    changes: Counter[str]
    """How many kept covers were changed, by word (several may hold for one cover)."""
    n_present: int
    """Cover files that exist."""
    n_converted: int
    """Kept covers whose bytes differ from the file's."""


def store_covers(
    root: Path,
    covers_root: Path,
    files: Sequence[CoverFile],
    writer: CoverWriter,
    limits: CoverLimits,
    quarantine: QuarantineLog,
    advance: Advance,
) -> CoverOutcome:
    """Check every cover file once and write the usable ones in the order of ``files``.

    Threads, not processes: Pillow releases the interpreter lock while it decodes, scales and
    encodes, threads start at once, and no image travels between processes.

    Args:
        root: folder that the paths are relative to.
        covers_root: folder that every path, links followed, must stay inside.
        files: at most one per item.
        writer: receives the usable covers.
        limits: what is accepted.
        quarantine: receives the others.
        advance: told after every file.
    """
    status: dict[str, str] = {}
    changes: Counter[str] = Counter()
    n_present = n_converted = 0
    n_threads = min(8, usable_cores())
    real_root = covers_root.resolve()

    def read(file: CoverFile) -> StoredCover:
        return _read_cover(root, real_root, file.path, limits)

    with warnings.catch_warnings(), only_own_limit(), ThreadPoolExecutor(n_threads) as pool:
        # What Pillow warns of (damaged EXIF data) is judged here.
        warnings.filterwarnings("ignore", module="PIL")
        for file, future in _in_order(pool, read, files, 4 * n_threads):
            try:
                cover = future.result()
            except FileNotFoundError:
                status[file.item_id] = "missing"
                detail = "the table of items names it, but it is not there"
                quarantine.add("cover", file.path, None, file.item_id, "no_such_file", detail)
            except CoverError as err:
                status[file.item_id] = "broken"
                n_present += 1
                quarantine.add("cover", file.path, None, file.item_id, err.reason, err.detail)
            else:
                status[file.item_id] = "ok"
                n_present += 1
                changes.update(cover.changes)
                n_converted += bool(set(cover.changes) - {"wrong_extension"})
                writer.add(file.item_id, cover)
            advance()
    return CoverOutcome(status, changes, n_present, n_converted)


def _in_order(
    pool: ThreadPoolExecutor,
    read: Callable[[CoverFile], StoredCover],
    files: Sequence[CoverFile],
    n_ahead: int,
) -> Iterator[tuple[CoverFile, Future[StoredCover]]]:
    """Yield files in order while at most ``n_ahead`` of them are in memory."""
    waiting: deque[tuple[CoverFile, Future[StoredCover]]] = deque()
    for file in files:
        waiting.append((file, pool.submit(read, file)))
        if len(waiting) >= n_ahead:
            yield waiting.popleft()
    yield from waiting


def _read_cover(root: Path, real_root: Path, relative: str, limits: CoverLimits) -> StoredCover:
    try:
        path = (root / relative).resolve()
    except (OSError, RuntimeError, ValueError) as err:
        raise CoverError("unreadable_file", f"{type(err).__name__}: {err}") from err
    if not path.is_relative_to(real_root):
        raise CoverError("outside_folder", f"{relative!r} leads out of the covers folder")
    if any(map(is_hidden, path.relative_to(real_root).parts)):
        raise CoverError("hidden_file", f"{relative!r} is hidden")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        try:
            path.stat()
        except FileNotFoundError:
            raise
        except OSError as err:
            raise CoverError("unreadable_file", f"{type(err).__name__}: {err}") from err
        return prepare_cover(take_frame(path, limits.max_pixels), ".png", limits)
    return prepare_cover(_read_limited(path, relative, limits.max_bytes), path.suffix, limits)


def _read_limited(path: Path, relative: str, max_bytes: int) -> bytes:
    try:
        stat = path.stat()
        if not S_ISREG(stat.st_mode):
            raise CoverError("not_a_file", f"{relative!r} is not a plain file")
        if stat.st_size > max_bytes:
            raise CoverError(
                "too_many_bytes", f"{stat.st_size} bytes, at most {max_bytes} are read"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as err:
        raise CoverError("unreadable_file", f"{type(err).__name__}: {err}") from err
