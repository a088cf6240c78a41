"""Finished steps on storage that several machines share: a bucket, a network disk, any of fsspec's.

::

    <url>/<dataset>/<step>/<key>/files/<sha256>    one file of an output, named by its content
    <url>/<dataset>/<step>/<key>/artifact.json     manifest and report; its presence is the commit

Steps read, write, lock and commit in the local store. What it has is uploaded, and what it lacks is
fetched before the step would run, into the same temporary folder and rename as an own commit.

``artifact.json`` is written last, so what was uploaded by halves is never seen. As files are named
by their content, machines that make one key at the same time, and not equal to the bit, do not mix
their files: the last ``artifact.json`` is the one that counts, and it names its own. So nothing is
replaced that a reader of an older one still needs, and nothing is ever removed here.
"""

import json
import logging
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.utils import get_protocol

from sicsrec.addresses import has_port, without_password, without_passwords
from sicsrec.artifacts import (
    ArtifactRef,
    ArtifactStore,
    FileEntry,
    Manifest,
    describe_inputs,
    digest_report,
    manifest_from_json,
)
from sicsrec.disk_space import naming_full_disk
from sicsrec.errors import ArtifactCorruptError, ConfigError, SharedStoreError, SicsrecError
from sicsrec.progress import NoProgress, Progress

logger = logging.getLogger(__name__)

_COMMIT = "artifact.json"
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SharedArtifact:
    """What the shared store knows of one finished step."""

    manifest: Manifest
    report: Mapping[str, Any]


class SharedStore:
    """Storage behind the local store. Where it fails, the work goes on without it.

    Args:
        url: any that fsspec knows, e.g. ``s3://bucket/prefix`` or ``file:///mnt/share/sicsrec``.
        pause_seconds: how long it is left alone after it could not be reached.

    Raises:
        ConfigError: if it is no URL, or the package for this kind of storage is not installed.
    """

    def __init__(self, url: str, pause_seconds: float = 300.0) -> None:
        self.url = without_password(url).rstrip("/")
        """For people: without a user or password."""
        if "://" not in url:
            raise ConfigError(
                f"the shared store {url!r} is no URL; write s3://bucket/prefix or, for a folder "
                "that all machines see, file:///mnt/folder"
            )
        self._is_folder = get_protocol(url) in {"file", "local"}
        self._address = url
        self._root: str | None = None
        self._pause_seconds = pause_seconds
        self._away_until = 0.0
        if not has_port(url) and "@" in url:
            raise ConfigError(
                f"the shared store {self.url} cannot be used: a password in it cannot hold / ? [ ] "
                f"or #; leave it out and set FSSPEC_{get_protocol(url).upper()}_PASSWORD"
            )
        # SFTP and the like connect at once. Where they are away, whoever asks first tries again.
        try:
            with self._asking():
                pass
        except SharedStoreError as err:
            if isinstance(err.__cause__, ImportError | ValueError):
                raise ConfigError(str(err)) from err.__cause__

    def look(self) -> list[str]:
        """Return the names of the datasets there.

        Raises:
            SharedStoreError: if it cannot be reached.
        """
        with self._asking():
            try:
                found = self._files.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
        return sorted(PurePosixPath(path).name for path in found)

    def find(self, dataset: str, step: str, key: str) -> SharedArtifact | None:
        """Return what is known of a finished step.

        None as well when it is broken or the storage cannot be reached; a warning says so.
        """
        found = None
        with self._going_on_without() as is_there:
            if is_there:
                found = self._read(dataset, step, key)
        return found

    def fetch(
        self,
        store: ArtifactStore,
        dataset: str,
        step: str,
        key: str,
        inputs: Mapping[str, ArtifactRef],
        progress: Progress | None = None,
    ) -> Manifest | None:
        """Commit a finished step to the local store, every file compared with its digest.

        The manifest names the inputs as they lie here: the key holds their digests alone, and
        another machine may have made the same from, say, covers with another time of change, so
        under other keys.

        The caller holds the lock of the key. Checkpoints of a run that was cut off stay unless the
        commit succeeds.

        Args:
            store: the local store.
            dataset: of the step.
            step: its name.
            key: its key.
            inputs: of the step in the local store, keyed by ``step/output``.
            progress: shows how far it is.

        Returns:
            The manifest; None when there is nothing, when it is broken, or when the storage cannot
            be reached. A warning says so of the latter two.

        Raises:
            DiskFullError: if the local disk cannot take it.
        """
        fetched = None
        with self._going_on_without() as is_there:
            found = self._read(dataset, step, key) if is_there else None
            if found is not None:
                manifest = replace(found.manifest, inputs=describe_inputs(inputs))
                fetched = self._download(manifest, found.report, store, progress or NoProgress())
        return fetched

    def push(
        self,
        store: ArtifactStore,
        manifest: Manifest,
        *,
        replaces: bool,
        progress: Progress | None = None,
    ) -> None:
        """Upload a step of the local store; a warning says so when that is not possible.

        The caller holds the lock of the key.

        Args:
            store: the local store.
            manifest: of a verified commit there.
            replaces: upload even when the key is there already, all files of it: one of them may
                be what made the step run again.
            progress: shows how far it is.
        """
        with self._going_on_without() as is_there:
            if is_there and (replaces or not self._holds(manifest)):
                self._upload(manifest, store, progress or NoProgress())

    def _connect(self) -> None:
        if self._root is None:
            # Only the local file system has to be told to make folders.
            options = {"auto_mkdir": True} if self._is_folder else {}
            self._files, root = fsspec.core.url_to_fs(self._address, **options)
            self._root = root.rstrip("/")

    def _read(self, dataset: str, step: str, key: str) -> SharedArtifact | None:
        with self._asking():
            try:
                content = self._files.cat_file(f"{self._place(dataset, step, key)}/{_COMMIT}")
            except FileNotFoundError:
                return None
        try:
            document = json.loads(content)
            manifest = manifest_from_json(document["manifest"])
            report = dict(document["report"])
            _check(manifest, report, dataset, step, key)
            return SharedArtifact(manifest, report)
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            raise ArtifactCorruptError(
                f"{self.url}/{dataset}/{step}/{key}/{_COMMIT} cannot be used: {err}"
            ) from err

    def _holds(self, manifest: Manifest) -> bool:
        try:
            return self._read(manifest.dataset, manifest.step, manifest.key) is not None
        except ArtifactCorruptError:
            return False

    def _download(
        self,
        manifest: Manifest,
        report: Mapping[str, Any],
        store: ArtifactStore,
        progress: Progress,
    ) -> Manifest:
        where = f"{self.url}: {manifest.step} {manifest.key}"
        files = [(name, file) for name, entry in manifest.outputs.items() for file in entry.files]
        pending = store.begin(manifest.dataset, manifest.step, manifest.key)
        with pending.discarded_on_error():
            folders = {name: pending.output(name) for name in manifest.outputs}
            with progress.stage(f"fetching {manifest.step}", len(files)) as advance:
                for name, file in files:
                    source = f"{self._place_of(manifest)}/files/{file.sha256}"
                    with self._asking(), naming_full_disk(store.root, where):
                        self._get(source, folders[name] / file.path, where)
                    advance()
            made = pending.describe({name: e.sees for name, e in manifest.outputs.items()})
            for name, entry in manifest.outputs.items():
                if made[name] != entry:
                    other = {file.path for file in set(made[name].files) ^ set(entry.files)}
                    raise ArtifactCorruptError(
                        f"{where}: {name}/{min(other, default='')} was cut short or edited: its "
                        "digest differs"
                    )
            return store.commit(pending, manifest, report)

    def _get(self, source: str, target: Path, where: str) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._files.get_file(source, str(target))
        except FileNotFoundError as err:
            raise ArtifactCorruptError(f"{where}: {target.name} is missing") from err

    def _upload(self, manifest: Manifest, store: ArtifactStore, progress: Progress) -> None:
        folder = store.folder(manifest.dataset, manifest.step, manifest.key) / "data"
        files = {
            file.sha256: folder / output / file.path
            for output, entry in manifest.outputs.items()
            for file in entry.files
        }
        report = store.report(manifest.dataset, manifest.step, manifest.key)
        document = {"manifest": asdict(manifest), "report": report}
        with progress.stage(f"uploading {manifest.step}", len(files)) as advance:
            for digest, path in files.items():
                with self._asking(), self._whole(manifest, f"files/{digest}") as target:
                    self._files.put_file(str(path), target)
                advance()
        content = json.dumps(document, ensure_ascii=False).encode()
        with self._asking(), self._whole(manifest, _COMMIT) as target:
            self._files.pipe_file(target, content)

    @contextmanager
    def _whole(self, manifest: Manifest, name: str) -> Iterator[str]:
        """Yield where to write what then takes the place of a file of a step in one go.

        Whoever reads what stands there sees that or the new file, whole.
        """
        target = f"{self._place_of(manifest)}/{name}"
        if not self._is_folder:
            # Object stores do that by themselves.
            yield target
            return
        written = Path(f"{target}.{uuid.uuid4().hex}.partial")
        try:
            yield str(written)
            written.replace(target)
        finally:
            written.unlink(missing_ok=True)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Connect where that is to be done yet, and raise all errors of the storage as one kind."""
        try:
            self._connect()
            yield
        except SicsrecError:
            raise
        except Exception as err:
            words = without_passwords(str(err)).splitlines()
            raise SharedStoreError(
                f"the shared store {self.url} cannot be used: {type(err).__name__}"
                + (f": {words[0]}" if words else "")
            ) from err

    @contextmanager
    def _going_on_without(self) -> Iterator[bool]:
        """Yield whether to ask at all; let the block's failures be warnings, once per pause."""
        try:
            yield time.monotonic() >= self._away_until
        except SharedStoreError as err:
            self._away_until = time.monotonic() + self._pause_seconds
            logger.warning(
                "%s. The run goes on with the local store alone; a later run uploads what this one "
                "makes",
                err,
            )
        except ArtifactCorruptError as err:
            logger.warning("%s; the step runs again and replaces it", err)

    def _place_of(self, manifest: Manifest) -> str:
        return self._place(manifest.dataset, manifest.step, manifest.key)

    def _place(self, dataset: str, step: str, key: str) -> str:
        return f"{self._root}/{dataset}/{step}/{key}"


def _check(
    manifest: Manifest, report: Mapping[str, Any], dataset: str, step: str, key: str
) -> None:
    """Refuse a manifest of something else or of another report, or that leaves its folder.

    Raises:
        ValueError: saying what is wrong.
    """
    found = manifest.dataset, manifest.step, manifest.key
    if found != (dataset, step, key):
        raise ValueError(f"it is of {'/'.join(map(str, found))}")
    if manifest.report_sha256 not in {"", digest_report(report)}:
        raise ValueError("the report was edited: its digest differs")
    for output, entry in manifest.outputs.items():
        if not _NAME.fullmatch(output):
            raise ValueError(f"{output!r} is no name of an output")
        for file in entry.files:
            _check_file(file)


def _check_file(file: FileEntry) -> None:
    path = PurePosixPath(file.path)
    if path.is_absolute() or ".." in path.parts or "\\" in file.path:
        raise ValueError(f"the path {file.path!r} leaves its root")
    if not _SHA256.fullmatch(file.sha256):
        raise ValueError(f"{file.sha256!r} is no digest")
