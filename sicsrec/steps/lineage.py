"""Which finished steps a finished step was made of, and which run used them last."""

from collections.abc import Iterable

from sicsrec.artifacts import ArtifactStore, Manifest
from sicsrec.errors import ArtifactMissingError
from sicsrec.runs import RunRegister
from sicsrec.steps import STEP_NAMES


def trace_lineage(store: ArtifactStore, last: Manifest) -> dict[str, Manifest]:
    """Return a step's manifest and those of all steps it was made of, by step, in order.

    Args:
        store: where they lie.
        last: the step to begin with.

    Raises:
        ArtifactMissingError: if one of them is not in the store any more.
    """
    found = {last.step: last}
    waiting = [last]
    while waiting:
        for entry in waiting.pop().inputs.values():
            if entry["step"] in found:
                continue
            manifest = store.find(last.dataset, entry["step"], entry["key"])
            if manifest is None:
                raise ArtifactMissingError(
                    f"{last.step} {last.key} was made of {entry['step']} {entry['key']}, which is "
                    "not in the store any more"
                )
            found[manifest.step] = manifest
            waiting.append(manifest)
    return {step: found[step] for step in STEP_NAMES if step in found}


def by_last_use(store: ArtifactStore, manifests: Iterable[Manifest]) -> list[Manifest]:
    """Sort finished steps by when they were made, or reused by a run that ended well.

    A run that reuses everything makes nothing, and still it is the newest one.
    """
    found = list(manifests)
    used: dict[tuple[str, str, str], str] = {}
    for dataset in {manifest.dataset for manifest in found}:
        for entry in RunRegister(store.root, dataset).entries():
            for step, key in entry.steps.items():
                place = dataset, step, key
                used[place] = max(used.get(place, ""), entry.ended or "")

    def last_use(manifest: Manifest) -> str:
        return max(manifest.started, used.get((manifest.dataset, manifest.step, manifest.key), ""))

    return sorted(found, key=last_use)


def newest_run(store: ArtifactStore, dataset: str) -> dict[str, Manifest]:
    """Return the steps of the run that got furthest and, of these, the newest.

    Returns:
        Manifests by step, in order; empty when nothing of the dataset is finished.

    Raises:
        ArtifactMissingError: if a step that it was made of is not in the store any more.
    """
    for step in reversed(STEP_NAMES):
        if manifests := store.manifests(dataset, step):
            newest = by_last_use(store, manifests)[-1]
            return _with_siblings(store, trace_lineage(store, newest))
    return {}


def _with_siblings(store: ArtifactStore, run: dict[str, Manifest]) -> dict[str, Manifest]:
    """Add what was made of the same steps without leading to the last one, such as figures."""
    found, dataset = dict(run), next(iter(run.values())).dataset
    for step in (name for name in STEP_NAMES if name not in run):
        for manifest in by_last_use(store, store.manifests(dataset, step)):
            made_of = [(entry["step"], entry["key"]) for entry in manifest.inputs.values()]
            if all(name in found and found[name].key == key for name, key in made_of):
                found[step] = manifest
    return {step: found[step] for step in STEP_NAMES if step in found}
