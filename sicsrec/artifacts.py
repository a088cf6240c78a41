"""The store of finished steps: keys, locks, atomic commits, lineage and verification.

::

    <root>/<dataset>/<step>/<key>/
      manifest.json         says what made this and what it holds; part of the same atomic rename
      report.json           numbers a person wants
      data/<output>/...     one folder per output: Parquet, safetensors, JSON; never pickle
    <root>/<dataset>/<step>/.<key>.lock       held by the process that makes the key
    <root>/<dataset>/<step>/.<key>.partial/   being written; its ``work/`` outlives a kill
    <root>/<dataset>/<step>/.<key>.removed/   on its way out; a kill may leave it
    <root>/<dataset>/<step>/.cache/           what a step keeps beyond one key, e.g. paid answers

The key is a digest over step, version, configuration and the *digests* of the inputs, so a step
that is run again and gives identical output lets everything after it be reused.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from sicsrec.errors import ArtifactCorruptError, ArtifactError, ArtifactMissingError

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
"""Version of the manifest's layout."""

_CHUNK_BYTES = 1 << 20
_N_SYNCED_AT_ONCE = 8
_CACHE = ".cache"
_MANIFEST = "manifest.json"
_REPORT = "report.json"


@dataclass(frozen=True)
class ArtifactRef:
    """Names one output of one committed step; small enough to travel through any orchestrator."""

    dataset: str
    step: str
    key: str
    output: str
    digest: str
    sees: tuple[str, ...]
    """Parts of the log this output depends on: a subset of train, valid, test, sorted."""

    @property
    def name(self) -> str:
        """``step/output``, the name under which later steps ask for it."""
        return f"{self.step}/{self.output}"


@dataclass(frozen=True)
class FileEntry:
    """One committed file."""

    path: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class OutputEntry:
    """One output of a step: its files and what part of the log it has seen."""

    digest: str
    sees: tuple[str, ...]
    files: tuple[FileEntry, ...]


@dataclass(frozen=True)
class Manifest:
    """Everything known about one committed step."""

    dataset: str
    step: str
    step_version: int
    key: str
    config: dict[str, Any]
    seed: int | None
    inputs: dict[str, dict[str, Any]]
    external_inputs: dict[str, str]
    outputs: dict[str, OutputEntry]
    started: str
    seconds: float
    code: dict[str, Any]
    environment: dict[str, Any]
    tracking: dict[str, str] = field(default_factory=dict)
    report_sha256: str = ""
    """Of ``report.json``; the commit fills it in. Empty where a release did that kept none."""
    schema_version: int = SCHEMA_VERSION

    def refs(self) -> dict[str, ArtifactRef]:
        """Return a reference for every output, keyed by ``step/output``."""
        refs = (
            ArtifactRef(self.dataset, self.step, self.key, name, entry.digest, entry.sees)
            for name, entry in self.outputs.items()
        )
        return {ref.name: ref for ref in refs}

    @property
    def n_bytes(self) -> int:
        """Size of all committed files."""
        return sum(file.n_bytes for entry in self.outputs.values() for file in entry.files)


def describe_inputs(refs: Mapping[str, ArtifactRef]) -> dict[str, dict[str, Any]]:
    """Return references as a manifest names its inputs."""
    return {
        name: {"step": ref.step, "key": ref.key, "output": ref.output, "digest": ref.digest}
        for name, ref in refs.items()
    }


def canonical_json(value: object) -> str:
    """Return JSON that is equal for equal values: sorted keys, no spaces, no NaN.

    Example:
        >>> canonical_json({"b": 1, "a": [2.0, None]})
        '{"a":[2.0,null],"b":1}'
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )


def digest_json(value: object) -> str:
    """Return the SHA-256 of a value as canonical JSON; it may hold names that are no UTF-8.

    Python reads such names with lone surrogates, which have no bytes in UTF-8; here they are
    written as escapes.
    """
    text = canonical_json(value).encode("utf-8", "backslashreplace")
    return hashlib.sha256(text).hexdigest()


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted names.

    Example:
        >>> flatten({"a": {"b": 1, "c": {"d": 2}}, "e": [3]})
        {'a.b': 1, 'a.c.d': 2, 'e': [3]}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's content in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def digest_folder(folder: Path) -> str:
    """Return a SHA-256 over the relative paths and contents of the visible files below a folder.

    Hidden ones are no content: downloads keep times there, and desktops their settings.
    """
    return digest_visible(folder, digest_file)


def digest_visible(root: Path, mark: Callable[[Path], str]) -> str:
    """Return a SHA-256 over the visible files below a folder, and where its links lead.

    What is read through a link to a folder becomes other data when the link is set anew, although
    no file changes.

    Args:
        root: the folder.
        mark: gives what stands for the content of a file.
    """
    entries = [
        (
            path.relative_to(root).as_posix(),
            path.readlink().as_posix() if path.is_dir() else mark(path),
        )
        for path in sorted(visible_paths(root))
        if path.is_file() or path.is_dir()
    ]
    return digest_json(entries)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name counts for nothing where data are read."""
    return name.startswith(".")


def visible_paths(root: Path) -> Iterator[Path]:
    """Yield the files below a folder but hidden ones and those of hidden folders, in no order.

    Links to folders are yielded, as they are not walked into, and so are links that lead nowhere.
    """
    # What may not be looked into is not the same as what is not there.
    for folder, below, names in os.walk(root, onerror=_raise):
        # Not even looked into: a home may hold more files than the data.
        below[:] = [name for name in below if not is_hidden(name)]
        yield from (path for name in below if (path := Path(folder, name)).is_symlink())
        paths = (Path(folder, name) for name in names if not is_hidden(name))
        yield from (path for path in paths if path.is_file() or path.is_symlink())


def _raise(error: OSError) -> None:
    raise error


def make_key(identity: Mapping[str, object]) -> str:
    """Return the first 16 hex digits of the SHA-256 of ``identity`` as canonical JSON."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]


def _list_files(folder: Path) -> tuple[FileEntry, ...]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(
        FileEntry(path.relative_to(folder).as_posix(), path.stat().st_size, digest_file(path))
        for path in paths
    )


def _digest_entries(files: tuple[FileEntry, ...]) -> str:
    return digest_json([(f.path, f.sha256) for f in files])


def resolve_inside(root: Path, relative: str) -> Path:
    """Return ``root / relative`` with links followed.

    Raises:
        ArtifactError: if the result lies outside ``root``.
    """
    path = (root / relative).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ArtifactError(f"path {relative!r} leaves its root {root}")
    return path


class ArtifactReader:
    """Gives a step access to one input and to nothing else of the store."""

    def __init__(self, ref: ArtifactRef, folder: Path) -> None:
        self.ref = ref
        self._folder = folder

    def path(self, name: str = ".") -> Path:
        """Return the path of a committed file or folder of this input.

        Raises:
            ArtifactError: if ``name`` leaves the input's folder.
            ArtifactMissingError: if there is no such file.
        """
        path = resolve_inside(self._folder, name)
        if not path.exists():
            raise ArtifactMissingError(f"{self.ref.name} {self.ref.key} has no file {name!r}")
        return path


class PendingArtifact:
    """A step's output while it is being written; nothing of it is visible before the commit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        """For checkpoints: kept when the process dies, removed by the commit."""
        self.cache = folder.parent / _CACHE
        """Shared by all keys of the step, kept for good; whoever uses it creates it."""
        if folder.exists():
            for path in folder.iterdir():
                # Besides half outputs a killed commit leaves a manifest that nobody may write to.
                if path != self.work:
                    _remove(path)
        self.work.mkdir(parents=True, exist_ok=True)

    def output(self, name: str) -> Path:
        """Return the (created) folder of one output."""
        path = self.folder / "data" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def output_names(self) -> set[str]:
        """Return the names of the outputs that were written."""
        data = self.folder / "data"
        return {path.name for path in data.iterdir()} if data.exists() else set()

    @contextmanager
    def discarded_on_error(self) -> Iterator[None]:
        """Give back the space of what was written when the block fails; checkpoints stay."""
        try:
            yield
        except BaseException:
            _remove(self.folder / "data")
            raise

    def describe(self, sees: Mapping[str, tuple[str, ...]]) -> dict[str, OutputEntry]:
        """Digest every output named in ``sees``."""
        entries = {}
        for name, parts in sees.items():
            files = _list_files(self.folder / "data" / name)
            entries[name] = OutputEntry(_digest_entries(files), parts, files)
        return entries


class ArtifactStore:
    """Finished steps on a local disk.

    Args:
        root: folder of the store; created when needed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def datasets(self, step: str | None = None) -> list[str]:
        """Return the names of the datasets in the store.

        Args:
            step: only those of which this step is finished; None: also those of which there are
                leftovers alone.
        """
        try:
            # Not by a glob, to which a folder that may not be read is an empty one.
            paths = sorted(path for path in self.root.iterdir() if not is_hidden(path.name))
        except FileNotFoundError:
            return []
        folders = [path for path in paths if path.is_dir()]
        if step is not None:
            manifests = f"{step}/[0-9a-f]*/{_MANIFEST}"
            folders = [folder for folder in folders if any(folder.glob(manifests))]
        return [folder.name for folder in folders]

    def folder(self, dataset: str, step: str, key: str) -> Path:
        """Return the folder of a committed step, whether or not it exists."""
        return resolve_inside(self.root, f"{dataset}/{step}/{key}")

    def cache(self, dataset: str, step: str) -> Path:
        """Return the folder that all keys of a step share, whether or not it exists."""
        return resolve_inside(self.root, f"{dataset}/{step}/{_CACHE}")

    @contextmanager
    def lock(self, dataset: str, step: str, key: str) -> Iterator[None]:
        """Hold the right to make this key; a second process waits, then finds the commit."""
        parent = self.folder(dataset, step, key).parent
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(parent / f".{key}.lock"):
            yield

    def find(self, dataset: str, step: str, key: str) -> Manifest | None:
        """Return the manifest of a committed step or None.

        Raises:
            ArtifactCorruptError: if the manifest cannot be read.
        """
        path = self.folder(dataset, step, key) / _MANIFEST
        try:
            return manifest_from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            raise ArtifactCorruptError(f"{path} is not a readable manifest: {err}") from err

    def verify(self, manifest: Manifest) -> None:
        """Compare every committed file with its recorded size and digest, and read the report.

        Raises:
            ArtifactMissingError: if all of it was removed in the meantime.
            ArtifactCorruptError: naming the first file that is missing, cut short or edited.
        """
        self.report(manifest.dataset, manifest.step, manifest.key)
        folder = self.folder(manifest.dataset, manifest.step, manifest.key)
        if manifest.report_sha256 not in {"", digest_file(folder / _REPORT)}:
            where = f"{manifest.step} {manifest.key}: {_REPORT}"
            raise ArtifactCorruptError(f"{where} was edited: its digest differs")
        for output, entry in manifest.outputs.items():
            for file in entry.files:
                path = resolve_inside(folder / "data" / output, file.path)
                where = f"{manifest.step}/{output} {manifest.key}: {file.path}"
                if not path.is_file():
                    raise ArtifactCorruptError(f"{where} is missing")
                if path.stat().st_size != file.n_bytes:
                    raise ArtifactCorruptError(
                        f"{where} has {path.stat().st_size} bytes, expected {file.n_bytes}"
                    )
                if digest_file(path) != file.sha256:
                    raise ArtifactCorruptError(f"{where} was edited: its digest differs")

    def clear_leftovers(self, dataset: str, step: str, key: str) -> None:
        """Remove what a kill left of a key that is committed; the caller holds the lock."""
        parent = self.folder(dataset, step, key).parent
        for name in (_partial(key), _removed(key)):
            _remove(parent / name)

    def begin(self, dataset: str, step: str, key: str) -> PendingArtifact:
        """Start writing; the caller holds :meth:`lock`. Leftovers of a killed process are cleared,
        except ``work/``.
        """
        parent = self.folder(dataset, step, key).parent
        _remove(parent / _removed(key))
        return PendingArtifact(parent / _partial(key))

    def commit(
        self, pending: PendingArtifact, manifest: Manifest, report: Mapping[str, Any]
    ) -> Manifest:
        """Make a finished step visible in one rename; an older commit of the key is replaced.

        The caller holds :meth:`lock`. Until the rename everything is on disk but not visible, and
        checkpoints are kept, so whatever fails or is killed before it costs no training.

        Returns:
            The manifest as it is committed, with the digest of the report.
        """
        folder = self.folder(manifest.dataset, manifest.step, manifest.key)
        (pending.folder / _REPORT).write_bytes(_readable_json(report))
        manifest = replace(manifest, report_sha256=digest_report(report))
        (pending.folder / _MANIFEST).write_bytes(_readable_json(asdict(manifest)))
        inside = (p for p in pending.folder.rglob("*") if not p.is_relative_to(pending.work))
        paths = [pending.folder, *inside]
        # At once: a disk writes out what waits together in about the time of one file.
        with ThreadPoolExecutor(_N_SYNCED_AT_ONCE) as pool:
            list(pool.map(_sync, paths))
        for path in paths:
            if path.is_file():
                path.chmod(0o444)
        if self._is_same(manifest):
            self._refresh_manifest(pending, folder, manifest)
        else:
            self._swap_in(pending, folder, folder.parent / _removed(manifest.key))
        _sync(folder.parent)
        logger.info("committed %s %s", manifest.step, manifest.key)
        return manifest

    def _is_same(self, manifest: Manifest) -> bool:
        """Return whether an intact commit of the key holds the same outputs already."""
        try:
            old = self.find(manifest.dataset, manifest.step, manifest.key)
            if old is None or old.outputs != manifest.outputs:
                return False
            self.verify(old)
        except ArtifactCorruptError:
            return False
        return True

    @staticmethod
    def _refresh_manifest(pending: PendingArtifact, folder: Path, manifest: Manifest) -> None:
        """Leave equal files where they are: another run may be reading them.

        In between the manifest names no digest of a report, so that whoever looks, or is left with
        it by a kill, finds an intact commit at any moment.
        """
        passing = pending.folder / "passing.json"
        passing.write_bytes(_readable_json(asdict(replace(manifest, report_sha256=""))))
        _sync(passing)
        passing.chmod(0o444)
        passing.replace(folder / _MANIFEST)
        for name in (_REPORT, _MANIFEST):
            (pending.folder / name).replace(folder / name)
        _sync(folder)
        _remove(pending.folder)

    @staticmethod
    def _swap_in(pending: PendingArtifact, folder: Path, removed: Path) -> None:
        """Put the pending folder in its place.

        A rename onto a folder that is not empty fails, so an old commit steps aside first. A kill
        between the renames leaves no commit, which the next run repairs by itself.
        """
        removed.mkdir(exist_ok=True)
        pending.work.rename(removed / "work")
        if folder.exists():
            folder.rename(removed / "replaced")
        pending.folder.rename(folder)
        _remove(removed)

    def open(self, ref: ArtifactRef) -> ArtifactReader:
        """Return a reader limited to one output.

        Raises:
            ArtifactMissingError: if it is not committed.
        """
        folder = self.folder(ref.dataset, ref.step, ref.key)
        if not (folder / _MANIFEST).exists():
            raise ArtifactMissingError(f"{ref.name} {ref.key} is not in the store {self.root}")
        return ArtifactReader(ref, resolve_inside(folder / "data", ref.output))

    def report(self, dataset: str, step: str, key: str) -> dict[str, Any]:
        """Return the report of a committed step.

        Raises:
            ArtifactMissingError: if it is not committed.
            ArtifactCorruptError: if its report is missing or was cut short.
        """
        folder = self.folder(dataset, step, key)
        try:
            report = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
        except FileNotFoundError as err:
            if not (folder / _MANIFEST).exists():
                raise ArtifactMissingError(f"{step} {key} is not in the store {self.root}") from err
            raise ArtifactCorruptError(f"{step} {key}: {_REPORT} is missing") from err
        except ValueError as err:
            raise ArtifactCorruptError(f"{step} {key}: {_REPORT} is not whole: {err}") from err
        if not isinstance(report, dict):
            raise ArtifactCorruptError(f"{step} {key}: {_REPORT} holds no report")
        return report

    def manifests(self, dataset: str, step: str) -> list[Manifest]:
        """Return all readable commits of one step, oldest first; unreadable ones are logged."""
        folder = resolve_inside(self.root, f"{dataset}/{step}")
        found = []
        for path in sorted(folder.glob(f"[0-9a-f]*/{_MANIFEST}")):
            try:
                manifest = self.find(dataset, step, path.parent.name)
            except ArtifactCorruptError as err:
                logger.warning("%s", err)
                continue
            if manifest is not None:
                found.append(manifest)
        return sorted(found, key=lambda manifest: manifest.started)


def manifest_from_json(content: dict[str, Any]) -> Manifest:
    """Return the manifest that ``asdict`` and JSON made ``content`` of.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: if it is something else, or of another
            release.
    """
    if content.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"schema_version {content.get('schema_version')!r}, this release reads {SCHEMA_VERSION}"
        )
    outputs = {
        name: OutputEntry(
            entry["digest"],
            tuple(entry["sees"]),
            tuple(FileEntry(**file) for file in entry["files"]),
        )
        for name, entry in content.pop("outputs").items()
    }
    return Manifest(outputs=outputs, **content)


def digest_report(report: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a report as it is written, the same for one that was read back."""
    return hashlib.sha256(_readable_json(report)).hexdigest()


def _readable_json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _partial(key: str) -> str:
    return f".{key}.partial"


def _removed(key: str) -> str:
    return f".{key}.removed"


def _remove(path: Path) -> None:
    """Remove a file or folder that may not be there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
