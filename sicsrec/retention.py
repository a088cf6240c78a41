"""What a store may give up: decided per dataset by what runs, lineage and age say, then removed.

Kept is what the newest good runs are made of, with everything that went into it; a good run is one
that ended without an error, and runs are told apart by preset and last step. What a run finished
that did not end well is kept for a day, for the run that goes on with it; it may be hours of
training. While a run uses a dataset, all of it is kept. Removing starts with a rename, so a process
that is killed while it removes leaves whole artifacts and folders that are on their way out, which
go the next time.
"""

import logging
import os
import re
import shutil
import stat
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from sicsrec.artifacts import ArtifactStore, Manifest
from sicsrec.errors import ArtifactCorruptError, ArtifactError, ConfigError
from sicsrec.runs import RunEntry, RunRegister

logger = logging.getLogger(__name__)

UNFINISHED_FOR = timedelta(days=1)
"""How long what a failed or killed run left is kept for the run that goes on with it."""

_KEY = re.compile(r"[0-9a-f]{16}")
_UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.partial")
_LEFTOVER = re.compile(r"\.[0-9a-f]{16}\.removed")
_LOCK = re.compile(r"\.[0-9a-f]{16}\.lock")
_CACHE = ".cache"

IN_USE = "a run that uses this dataset is in progress"
"""Why nothing of a dataset goes."""


@dataclass(frozen=True)
class RetentionPolicy:
    """What is kept."""

    n_runs: int = 1
    """Good runs kept per dataset, preset and last step."""
    older_than: timedelta = timedelta(0)
    """Nothing younger goes, except what is of no use to anybody."""
    with_caches: bool = False
    """Whether what steps keep beyond one key, e.g. answers that were paid for, may go."""
    pinned_runs: Collection[str] = ()
    """Ids of MLflow runs, of pipelines or steps, whose artifacts are kept."""


@dataclass(frozen=True)
class Verdict:
    """Whether something may go."""

    kind: Literal["artifact", "torn", "unfinished", "leftover", "cache"]
    is_removable: bool
    reason: str


@dataclass(frozen=True)
class StoredThing:
    """One artifact or leftover of a store."""

    dataset: str
    step: str
    name: str
    n_bytes: int
    changed: datetime
    verdict: Verdict
    path: Path = field(repr=False)
    tracked_as: str | None = None
    """Id of the MLflow run that recorded it."""


def list_things(
    store: ArtifactStore, policy: RetentionPolicy, datasets: Collection[str] = ()
) -> list[StoredThing]:
    """Return everything in the store and what ``policy`` says of it; nothing is changed.

    Args:
        store: the store.
        policy: what is kept.
        datasets: names; all of the store when empty.

    Raises:
        ConfigError: if a dataset is not in the store.
    """
    return [
        thing
        for dataset in _datasets(store, datasets)
        for thing in _judge(store, policy, dataset, RunRegister(store.root, dataset).is_in_use())
    ]


def remove_things(
    store: ArtifactStore,
    policy: RetentionPolicy,
    datasets: Collection[str] = (),
    when_in_use: Callable[[str], None] | None = None,
) -> Iterator[StoredThing]:
    """Remove what ``policy`` does not keep, one dataset after the other, and yield what went.

    Nobody can start to use a dataset while it is worked on; whoever wants to waits. What is kept is
    decided within that time, so a run that has just begun is seen.

    Args:
        store: the store.
        policy: what is kept.
        datasets: names; all of the store when empty.
        when_in_use: is told the name of a dataset that is left alone because a run uses it.

    Raises:
        ConfigError: if a dataset is not in the store.
    """
    for dataset in _datasets(store, datasets):
        register = RunRegister(store.root, dataset)
        with register.closed():
            if register.is_in_use():
                if when_in_use is not None:
                    when_in_use(dataset)
                continue
            for thing in _judge(store, policy, dataset, is_in_use=False):
                if thing.verdict.is_removable:
                    _remove(thing)
                    yield thing
            _clear_records(store, register, dataset)


def _datasets(store: ArtifactStore, wanted: Collection[str]) -> list[str]:
    there = store.datasets()
    unknown = sorted(set(wanted) - set(there))
    if unknown:
        raise ConfigError(
            f"there is no dataset {', '.join(unknown)} in {store.root}; there are: "
            f"{', '.join(there) or 'none'}"
        )
    return [name for name in there if not wanted or name in wanted]


def _judge(
    store: ArtifactStore, policy: RetentionPolicy, dataset: str, is_in_use: bool
) -> list[StoredThing]:
    folders = [
        path
        for path in sorted((store.root / dataset).glob("*/*"))
        if path.is_dir() and not path.parent.name.startswith(".")
    ]
    commits, torn = _read_commits(store, dataset, folders)
    now = datetime.now(UTC)
    entries = RunRegister(store.root, dataset).entries()
    kept = _kept(commits, entries, policy)
    has_checkpoints = any(_holds_checkpoints(path, now, policy) for path in folders)
    _keep_for_next_run(commits, entries, now, has_checkpoints, kept)
    things = []
    for path in folders:
        place = path.parent.name, path.name
        manifest = commits.get(place)
        changed = _changed(path) if manifest is None else datetime.fromisoformat(manifest.started)
        if changed is None:
            continue
        verdict: Verdict | None
        if manifest is not None:
            verdict = _judge_commit(kept.get(place), now - changed, policy)
        elif place in torn:
            verdict = Verdict("torn", True, torn[place])
        else:
            verdict = _judge_other(path.name, now - changed, policy)
        if verdict is None:
            continue
        if is_in_use:
            verdict = Verdict(verdict.kind, False, IN_USE)
        tracked_as = manifest.tracking.get("mlflow_run_id") if manifest else None
        things.append(StoredThing(dataset, *place, _size(path), changed, verdict, path, tracked_as))
    return things


def _judge_commit(reason: str | None, age: timedelta, policy: RetentionPolicy) -> Verdict:
    if reason is not None:
        return Verdict("artifact", False, reason)
    if age < policy.older_than:
        return Verdict("artifact", False, "younger than --older-than")
    return Verdict("artifact", True, "no kept run is made of it")


def _judge_other(name: str, age: timedelta, policy: RetentionPolicy) -> Verdict | None:
    if _LEFTOVER.fullmatch(name):
        return Verdict("leftover", True, "was being removed when a process was killed")
    if _UNFINISHED.fullmatch(name):
        if age > max(UNFINISHED_FOR, policy.older_than):
            return Verdict("unfinished", True, "cut off, and no run went on with it")
        return Verdict("unfinished", False, "cut off not long ago; the next run goes on with it")
    if name == _CACHE:
        goes = policy.with_caches and age >= policy.older_than
        return Verdict("cache", goes, "serves all runs; goes with --caches only")
    return None


def _holds_checkpoints(path: Path, now: datetime, policy: RetentionPolicy) -> bool:
    """Return whether a folder was left by a step that was cut off, and is kept."""
    if not _UNFINISHED.fullmatch(path.name) or (changed := _changed(path)) is None:
        return False
    verdict = _judge_other(path.name, now - changed, policy)
    return verdict is not None and not verdict.is_removable


def _read_commits(
    store: ArtifactStore, dataset: str, folders: list[Path]
) -> tuple[dict[tuple[str, str], Manifest], dict[tuple[str, str], str]]:
    """Return manifests of whole commits, and why others are torn, by step and key."""
    commits, torn = {}, {}
    for path in folders:
        if not _KEY.fullmatch(path.name):
            continue
        place = path.parent.name, path.name
        try:
            manifest = store.find(dataset, *place)
        except ArtifactCorruptError:
            torn[place] = "its manifest cannot be read"
            continue
        if manifest is None:
            torn[place] = "it has no manifest"
        elif not _has_report(store, manifest):
            torn[place] = "its report cannot be read"
        elif missing := _first_missing(path, manifest):
            torn[place] = f"{missing} is missing or cut short"
        else:
            commits[place] = manifest
    return commits, torn


def _has_report(store: ArtifactStore, manifest: Manifest) -> bool:
    try:
        store.report(manifest.dataset, manifest.step, manifest.key)
    except ArtifactError:
        return False
    return True


def _first_missing(folder: Path, manifest: Manifest) -> str | None:
    """Compare sizes; digests are compared by the run that reuses the artifact."""
    for output, entry in manifest.outputs.items():
        for file in entry.files:
            path = folder / "data" / output / file.path
            with suppress(FileNotFoundError):
                if path.is_file() and path.stat().st_size == file.n_bytes:
                    continue
            return f"{output}/{file.path}"
    return None


def _kept(
    commits: dict[tuple[str, str], Manifest], entries: list[RunEntry], policy: RetentionPolicy
) -> dict[tuple[str, str], str]:
    """Return the steps and keys that are kept, with the reason."""
    kept: dict[tuple[str, str], str] = {}
    good: dict[tuple[str, str], list[RunEntry]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: entry.ended or ""):
        if entry.ended is not None:
            good[entry.preset, entry.last_step].append(entry)
    for (preset, last_step), runs in good.items():
        for number, entry in enumerate(reversed(runs[-policy.n_runs :]), start=1):
            which = "newest run" if number == 1 else f"run {number}, counted from the newest,"
            reason = f"{which} of {preset or 'this dataset'} up to {last_step}"
            _keep(set(entry.steps.items()), reason, commits, kept)
    for entry in entries:
        if entry.id in policy.pinned_runs:
            _keep(set(entry.steps.items()), "its MLflow run is marked to be kept", commits, kept)
    for place, manifest in commits.items():
        if manifest.tracking.get("mlflow_run_id") in policy.pinned_runs:
            _keep({place}, "its MLflow run is marked to be kept", commits, kept)
    if not good and commits:
        _keep(_newest_without_runs(commits, policy.n_runs), "newest artifact", commits, kept)
    return kept


def _keep_for_next_run(
    commits: dict[tuple[str, str], Manifest],
    entries: list[RunEntry],
    now: datetime,
    has_checkpoints: bool,
    kept: dict[tuple[str, str], str],
) -> None:
    """Add what runs that did not end well used, and what was finished, not long ago."""
    in_good_runs: dict[tuple[str, str], str] = {}
    for entry in entries:
        places = set(entry.steps.items())
        if entry.ended is not None:
            _keep(places, "", commits, in_good_runs)
        elif _is_recent(entry.failed or entry.started, now) or (
            # Nobody knows when it was killed; the checkpoints may well be its own.
            entry.failed is None and has_checkpoints
        ):
            reason = "a run that did not end well used it; the next run goes on with it"
            _keep(places, reason, commits, kept)
    # A run on a full disk may not even have noted what it finished.
    young = {
        place
        for place, manifest in commits.items()
        if place not in in_good_runs
        and _is_recent(manifest.started, now - timedelta(seconds=manifest.seconds))
    }
    _keep(young, "finished not long ago; the next run goes on with it", commits, kept)


def _is_recent(moment: str, now: datetime) -> bool:
    return now - datetime.fromisoformat(moment) <= UNFINISHED_FOR


def _newest_without_runs(
    commits: dict[tuple[str, str], Manifest], n_runs: int
) -> set[tuple[str, str]]:
    """Return the newest commits that nothing else was made of, in stores without known runs."""
    used = {(entry["step"], entry["key"]) for m in commits.values() for entry in m.inputs.values()}
    ends: dict[str, list[Manifest]] = defaultdict(list)
    for place, manifest in commits.items():
        if place not in used:
            ends[manifest.step].append(manifest)
    return {
        (manifest.step, manifest.key)
        for found in ends.values()
        for manifest in sorted(found, key=lambda m: m.started)[-n_runs:]
    }


def _keep(
    places: set[tuple[str, str]],
    reason: str,
    commits: dict[tuple[str, str], Manifest],
    kept: dict[tuple[str, str], str],
) -> None:
    """Add places and all that they were made of."""
    waiting = list(places)
    while waiting:
        place = waiting.pop()
        if place in kept or place not in commits:
            continue
        kept[place] = reason
        waiting += [(e["step"], e["key"]) for e in commits[place].inputs.values()]


def _remove(thing: StoredThing) -> None:
    path = thing.path
    if thing.verdict.kind in {"artifact", "torn"}:
        # One rename: whoever looks finds a whole artifact or none.
        leftover = path.with_name(f".{path.name}.removed")
        if leftover.exists():
            shutil.rmtree(leftover)
        path = path.rename(leftover)
    if path.exists():
        shutil.rmtree(path)
    logger.info(
        "removed %s of %s/%s: %s", thing.name, thing.dataset, thing.step, thing.verdict.reason
    )


def _clear_records(store: ArtifactStore, register: RunRegister, dataset: str) -> None:
    """Forget runs for which nothing is kept any more, and locks, which nobody can hold now."""
    now = datetime.now(UTC)
    for entry in register.entries():
        places = [store.folder(dataset, step, key) for step, key in entry.steps.items()]
        is_empty = entry.ended is not None and not any(path.exists() for path in places)
        if is_empty or (entry.failed is not None and not _is_recent(entry.failed, now)):
            register.forget(entry.id)
    register.clear_dead_locks()
    for path in (store.root / dataset).glob("*/.*.lock"):
        if _LOCK.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _changed(path: Path) -> datetime | None:
    """Return when anything in a folder was changed last; None when the folder has vanished."""
    if (own := _status(path)) is None:
        return None
    inner = (_status(p) for p in _inside(path))
    newest = max([own.st_mtime, *(status.st_mtime for status in inner if status is not None)])
    return datetime.fromtimestamp(newest, UTC)


def _size(path: Path) -> int:
    inner = (_status(p) for p in _inside(path))
    return sum(s.st_size for s in inner if s is not None and not stat.S_ISDIR(s.st_mode))


def _inside(path: Path) -> Iterator[Path]:
    # Unlike a glob, this passes over folders that vanish while it is under way.
    for folder, folders, files in os.walk(path):
        yield from (Path(folder) / name for name in (*folders, *files))


def _status(path: Path) -> os.stat_result | None:
    """Return what the file system says of a path; None when a run beside us has removed it."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None
