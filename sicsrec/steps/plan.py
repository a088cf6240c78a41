"""What a run would do: which steps are committed already and which are left."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sicsrec.artifacts import ArtifactRef, ArtifactStore, Manifest
from sicsrec.config import PipelineConfig
from sicsrec.shared_store import SharedStore
from sicsrec.steps import STEPS, inputs_of
from sicsrec.steps.runner import find_reusable

State = Literal["cached", "shared", "to do", "not needed"]
"""``shared``: not here, but in the shared store, from which a run would fetch it."""


@dataclass(frozen=True)
class PlannedStep:
    """One step of a plan."""

    name: str
    state: State
    key: str | None = None
    """None when an earlier step has to run first: the key depends on what it will give."""
    manifest: Manifest | None = None
    rows: int | None = None
    rows_of: str = ""


def plan_steps(
    config: PipelineConfig, store: ArtifactStore, shared: SharedStore | None = None
) -> list[PlannedStep]:
    """Return the state of every step under this configuration, without running any.

    A step whose inputs are not all there yet is to do, with an unknown key. Nothing is fetched.

    Raises:
        DataError: if raw data or a given vector file does not exist.
        ConfigError: if a local model does not exist.
    """
    refs: dict[str, ArtifactRef] = {}
    plan = []
    for step in STEPS:
        if not step.is_needed(config):
            plan.append(PlannedStep(step.name, "not needed"))
            continue
        if not {entry.name for entry in inputs_of(step, config)} <= set(refs):
            plan.append(PlannedStep(step.name, "to do"))
            continue
        key, manifest = find_reusable(step, config, refs, store)
        state: State = "cached"
        if manifest is not None:
            report: Mapping[str, Any] = store.report(config.dataset, step.name, key)
        elif shared is not None and (found := shared.find(config.dataset, step.name, key)):
            state, manifest, report = "shared", found.manifest, found.report
        else:
            plan.append(PlannedStep(step.name, "to do", key))
            continue
        refs |= manifest.refs()
        plan.append(PlannedStep(step.name, state, key, manifest, report["rows"], report["rows_of"]))
    return plan
