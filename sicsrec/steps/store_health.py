"""What is wrong with a store: broken artifacts, and what killed runs left behind."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sicsrec.artifacts import ArtifactStore, Manifest, resolve_inside
from sicsrec.errors import ArtifactCorruptError, ArtifactError
from sicsrec.runs import is_held
from sicsrec.steps import STEP_NAMES

logger = logging.getLogger(__name__)


@dataclass
class StoreHealth:
    """What a look at every artifact of a store found."""

    n_artifacts: int = 0
    n_bytes: int = 0
    broken: list[str] = field(default_factory=list)
    """One message per artifact that is missing a file, cut short or edited."""
    leftovers: list[Path] = field(default_factory=list)
    """Folders of runs that were killed; nobody writes to them."""
    leftover_bytes: int = 0
    in_progress: list[str] = field(default_factory=list)
    """``dataset/step key`` of what a process makes at the moment."""


def examine_store(store: ArtifactStore, *, with_digests: bool = True) -> StoreHealth:
    """Look at every artifact, without changing anything.

    Args:
        store: the store.
        with_digests: read every file and compare its digest; otherwise sizes only.
    """
    health = StoreHealth()
    for folder in _step_folders(store.root):
        dataset, step = folder.parent.name, folder.name
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                _examine_hidden(path, f"{dataset}/{step}", health)
            elif path.is_dir():
                _examine_artifact(store, (dataset, step, path.name), health, with_digests)
    return health


def _step_folders(root: Path) -> Iterator[Path]:
    if root.is_dir():
        for dataset in sorted(path for path in root.iterdir() if path.is_dir()):
            yield from (dataset / step for step in STEP_NAMES if (dataset / step).is_dir())


def _examine_artifact(
    store: ArtifactStore, place: tuple[str, str, str], health: StoreHealth, with_digests: bool
) -> None:
    name = "/".join(place)
    health.n_artifacts += 1
    try:
        manifest = store.find(*place)
        if manifest is None:
            health.broken.append(f"{name}: manifest.json is missing")
            return
        health.n_bytes += manifest.n_bytes
        if with_digests:
            store.verify(manifest)
        else:
            _verify_sizes(store, manifest)
    except ArtifactError as err:
        health.broken.append(f"{name}: {err}")


def _verify_sizes(store: ArtifactStore, manifest: Manifest) -> None:
    store.report(manifest.dataset, manifest.step, manifest.key)
    folder = store.folder(manifest.dataset, manifest.step, manifest.key) / "data"
    for output, entry in manifest.outputs.items():
        for file in entry.files:
            path = resolve_inside(folder / output, file.path)
            if not path.is_file():
                raise ArtifactCorruptError(f"{output}/{file.path} is missing")
            if (size := path.stat().st_size) != file.n_bytes:
                raise ArtifactCorruptError(
                    f"{output}/{file.path} has {size} bytes, expected {file.n_bytes}"
                )


def _examine_hidden(path: Path, where: str, health: StoreHealth) -> None:
    if not path.is_dir() or path.suffix not in {".partial", ".removed"}:
        return
    key = path.stem.removeprefix(".")
    if is_held(path.parent / f".{key}.lock"):
        health.in_progress.append(f"{where} {key}")
        return
    health.leftovers.append(path)
    health.leftover_bytes += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
