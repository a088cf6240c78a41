"""Which runs use a store and what they used, so that nobody clears away what a run needs.

::

    <root>/<dataset>/.runs/<id>.lock       held for as long as the run or step lives
    <root>/<dataset>/.runs/<id>.json       preset, process, keys of the steps, how and when it ended
    <root>/<dataset>/.runs/entrance.lock   held while somebody comes in or something goes out

The operating system lets go of a lock when its process ends, however it ends; so a run is alive
exactly as long as its lock is held, also among containers that share a disk.
"""

import json
import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from sicsrec.liveness import process_tags
from sicsrec.replacing import replace_json

logger = logging.getLogger(__name__)

_FOLDER = ".runs"
_ENTRANCE = "entrance.lock"


@dataclass(frozen=True)
class RunEntry:
    """One run of a pipeline on one dataset."""

    id: str
    preset: str
    last_step: str
    """The last step it was to run."""
    started: str
    """ISO 8601."""
    steps: Mapping[str, str] = field(default_factory=dict)
    """Names of the steps made or reused so far, with their keys."""
    ended: str | None = None
    """ISO 8601, of a good run; None while it runs, and for ever of any other."""
    failed: str | None = None
    """ISO 8601: when it ended with an error, or was found to have been killed."""
    process: Mapping[str, str] = field(default_factory=process_tags)
    """See :func:`sicsrec.liveness.process_tags`."""


class RunRegister:
    """The runs that use one dataset of a store.

    Args:
        root: of the store.
        dataset: whose artifacts they use.
    """

    def __init__(self, root: Path, dataset: str) -> None:
        self.folder = root / dataset / _FOLDER

    @contextmanager
    def using(self) -> Iterator[None]:
        """Be known as somebody who uses the dataset, for as long as the block."""
        with self._holding(uuid.uuid4().hex):
            yield

    @contextmanager
    def recording(self, run_id: str, preset: str, last_step: str) -> Iterator[None]:
        """Be known, and remembered as a good run or, if the block raises, as one that failed."""
        with self._holding(run_id):
            self._write(RunEntry(run_id, preset, last_step, started=_now()))
            try:
                yield
            except BaseException:
                self.note_failure(run_id)
                raise
            self._write(replace(self._read(self._path(run_id)), ended=_now()))

    def note_step(self, run_id: str, step: str, key: str) -> None:
        """Remember that a run made or reused a step; not at all when the run is not recorded."""
        path = self._path(run_id)
        if path.exists():
            entry = self._read(path)
            self._write(replace(entry, steps={**entry.steps, step: key}))

    def note_failure(self, run_id: str) -> None:
        """Remember that a run did not end well; what it finished is of use to the next.

        One that ended well since it was looked at stays a good run.
        """
        path = self._path(run_id)
        # What failed may be the disk, which is full: then it counts as killed, which needs no note.
        with suppress(OSError):
            entry = self._read(path)
            if entry.ended is None:
                self._write(replace(entry, failed=_now()))

    def entries(self) -> list[RunEntry]:
        """Return all recorded runs, oldest first; unreadable entries are passed over."""
        found = []
        for path in self.folder.glob("*.json"):
            try:
                found.append(self._read(path))
            except (ValueError, TypeError, FileNotFoundError) as err:
                logger.warning("%s is not the entry of a run: %s", path, err)
        return sorted(found, key=lambda entry: entry.started)

    def killed(self) -> list[RunEntry]:
        """Return the runs that neither live nor ended, and of which no failure is noted yet."""
        return [
            entry
            for entry in self.entries()
            if entry.ended is None and entry.failed is None and not is_held(self._lock(entry.id))
        ]

    def living(self) -> list[RunEntry]:
        """Return the runs that are alive, here or elsewhere."""
        return [entry for entry in self.entries() if is_held(self._lock(entry.id))]

    def is_in_use(self) -> bool:
        """Return whether a run or step that uses the dataset is alive, here or elsewhere."""
        locks = [path for path in self.folder.glob("*.lock") if path.name != _ENTRANCE]
        return any(is_held(path) for path in locks)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Let nobody come in while the block lasts; whoever wants to waits."""
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / _ENTRANCE, thread_local=False):
            yield

    def forget(self, run_id: str) -> None:
        """Remove the entry of a run."""
        self._path(run_id).unlink(missing_ok=True)

    def clear_dead_locks(self) -> None:
        """Remove the locks that killed runs left; only inside :meth:`closed`."""
        for path in self.folder.glob("*.lock"):
            if path.name != _ENTRANCE and not is_held(path):
                path.unlink(missing_ok=True)

    @contextmanager
    def _holding(self, name: str) -> Iterator[None]:
        lock = FileLock(self._lock(name), thread_local=False)
        with self.closed():
            self._clear_half_written()
            lock.acquire()
        try:
            yield
        finally:
            # No other process asks for a lock of this name, except to see whether it is held.
            self._lock(name).unlink(missing_ok=True)
            lock.release()

    def _clear_half_written(self) -> None:
        """Remove what processes left that were killed while they wrote the entry of their run."""
        for path in self.folder.glob("*.tmp"):
            run_id = path.name.partition(".")[0]
            if not is_held(self._lock(run_id)):
                path.unlink(missing_ok=True)

    def _lock(self, name: str) -> Path:
        return self.folder / f"{name}.lock"

    def _path(self, run_id: str) -> Path:
        return self.folder / f"{run_id}.json"

    @staticmethod
    def _read(path: Path) -> RunEntry:
        return RunEntry(**json.loads(path.read_text(encoding="utf-8")))

    def _write(self, entry: RunEntry) -> None:
        replace_json(self._path(entry.id), asdict(entry))


def is_held(lock: Path) -> bool:
    """Return whether a process holds a lock; the file alone says nothing, it stays after a kill.

    One that may not be asked, as in the home of somebody else, counts as held: nothing is taken for
    dead that may be alive.
    """
    try:
        if not lock.exists():
            return False
        with FileLock(lock, timeout=0, thread_local=False):
            return False
    except (Timeout, PermissionError):
        return True


def registers(root: Path) -> dict[str, RunRegister]:
    """Return the registers of all datasets of a store by name."""
    names = sorted(path.parent.name for path in root.glob(f"*/{_FOLDER}"))
    return {name: RunRegister(root, name) for name in names}


def killed_processes(root: Path) -> list[Mapping[str, str]]:
    """Return the processes of the runs of a store that were killed, of whichever host.

    The locks tell it where a process cannot be asked: a container that was made anew has another
    name, and one of a work pool runs once.

    Returns:
        Tags of each process, as :func:`sicsrec.liveness.process_tags` gives them.
    """
    every = registers(root).values()
    killed = [entry.process for found in every for entry in found.killed()]
    if not killed:
        return []
    # One process can carry out several runs, such as those of a comparison.
    alive = [process_tags()] + [entry.process for found in every for entry in found.living()]
    return [process for process in killed if process not in alive]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
