"""Plans and runs one step: key, reuse, locks, leak checks, commit. Knows no orchestrator."""

import importlib
import importlib.metadata
import logging
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pydantic import BaseModel

from sicsrec.artifacts import (
    ArtifactRef,
    ArtifactStore,
    Manifest,
    OutputEntry,
    PendingArtifact,
    describe_inputs,
    make_key,
)
from sicsrec.cluster import Hosts, OpenCluster
from sicsrec.config import PipelineConfig
from sicsrec.cores import keep_torch_to_usable_cores
from sicsrec.disk_space import naming_full_disk
from sicsrec.errors import (
    ArtifactCorruptError,
    ArtifactError,
    ArtifactMissingError,
    ConfigError,
    DataError,
    LeakageError,
)
from sicsrec.progress import NoProgress, Progress
from sicsrec.runs import RunRegister
from sicsrec.shared_store import SharedStore
from sicsrec.steps import Step, get_step, inputs_of, outputs_of
from sicsrec.steps.context import ReadSecret, StepContext, StepReport, no_secrets
from sicsrec.steps.external import external_inputs, without_places
from sicsrec.tracking import NullTracker, Tracker

logger = logging.getLogger(__name__)

OpenTracker = Callable[[Step, str], AbstractContextManager[Tracker]]
"""Opens the record of one step that really runs, given the step and its key."""

HoldAccelerator = Callable[[], AbstractContextManager[None]]
"""Waits for the accelerator, and holds it within the block."""


@dataclass(frozen=True)
class StepResult:
    """How one step ended."""

    manifest: Manifest
    report: StepReport
    was_reused: bool
    seconds: float
    """Wall time of this call, reuse included; ``manifest.seconds`` is what making it took."""
    fetched_from: str = ""
    """Address of the shared store that a reused step was fetched from; empty when it was here."""

    @property
    def refs(self) -> dict[str, ArtifactRef]:
        """References of all outputs, keyed by ``step/output``."""
        return self.manifest.refs()


def step_identity(
    step: Step, config: PipelineConfig, inputs: Mapping[str, ArtifactRef]
) -> dict[str, Any]:
    """Return everything a step's output depends on; its digest is the key.

    Args:
        step: the step.
        config: the whole configuration.
        inputs: references of at least the step's inputs, keyed by ``step/output``.

    Raises:
        ArtifactMissingError: if an input is missing.
    """
    section = getattr(config, step.name).model_dump(mode="json")
    for path in step.not_in_key(config):
        _leave_out(section, path)
    for path in step.further_sections(config):
        value: Any = config
        for part in path.split("."):
            value = getattr(value, part)
        section[path] = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    section |= step.further_versions(config)
    digests = {}
    for entry in inputs_of(step, config):
        if entry.name not in inputs:
            raise ArtifactMissingError(f"step {step.name} needs {entry.name}, which was not made")
        digests[entry.name] = inputs[entry.name].digest
    return {
        "step": step.name,
        "step_version": step.version,
        "config": without_places(section),
        "seed": config.seed if step.is_seeded else None,
        "inputs": digests,
        "external_inputs": external_inputs(step.name, config),
    }


def _leave_out(section: dict[str, Any], path: str) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        section = section[parent]
    del section[name]


def check_leaks(step: Step, config: PipelineConfig, inputs: Mapping[str, ArtifactRef]) -> None:
    """Refuse inputs that have seen more of the log than the step may see.

    Raises:
        LeakageError: naming step, input and the parts of the log in question.
    """
    for entry in inputs_of(step, config):
        too_much = set(inputs[entry.name].sees) - entry.may_see
        if too_much:
            raise LeakageError(
                f"step {step.name} must not use {entry.name} {inputs[entry.name].key}: it has seen "
                f"{sorted(too_much)}, allowed is at most {sorted(entry.may_see)}"
            )


def find_reusable(
    step: Step, config: PipelineConfig, inputs: Mapping[str, ArtifactRef], store: ArtifactStore
) -> tuple[str, Manifest | None]:
    """Return the step's key and its verified commit, or None when it has to run."""
    key = make_key(step_identity(step, config, inputs))
    return key, _find_intact(step, config, key, store)


def _find_intact(
    step: Step, config: PipelineConfig, key: str, store: ArtifactStore
) -> Manifest | None:
    try:
        manifest = store.find(config.dataset, step.name, key)
        if manifest is not None:
            store.verify(manifest)
    except (ArtifactCorruptError, ArtifactMissingError) as err:
        logger.warning("%s; the step runs again", err)
        manifest = None
    return manifest


def run_step(
    name: str,
    config: PipelineConfig,
    inputs: Mapping[str, ArtifactRef],
    store: ArtifactStore,
    *,
    refresh: bool = False,
    open_tracker: OpenTracker | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
    hold_accelerator: HoldAccelerator = nullcontext,
    n_processes: int = 1,
    hosts: Hosts | None = None,
    open_cluster: OpenCluster = nullcontext,
    read_secret: ReadSecret = no_secrets,
    code: Mapping[str, str] | None = None,
    shared: SharedStore | None = None,
) -> StepResult:
    """Run one step, or reuse its commit when configuration, code version and inputs are unchanged.

    Args:
        name: one of :data:`sicsrec.steps.STEP_NAMES`.
        config: the whole configuration.
        inputs: references of outputs made so far, keyed by ``step/output``.
        store: where inputs lie and outputs go.
        refresh: run even when a commit could be reused.
        open_tracker: opens the record of a step that really runs; None records nothing.
        progress: shows how far the step is; None shows nothing.
        device: torch device of the step; ``auto`` takes an accelerator where there is one, and is
            looked up only when the step really runs.
        hold_accelerator: entered while a step that really runs computes on another device than the
            CPU; may wait until others are done there.
        n_processes: processes that train a sequence model together, on CUDA each on a device of
            its own. Not part of the key: beside rounding and dropout nothing depends on it.
        hosts: that train a sequence model together, each with so many processes; None: this one
            alone. No more part of the key.
        open_cluster: gives who takes over parts of sampling and encoding; asked only when such a
            step really runs. Not part of the key: what comes out is the same.
        read_secret: gives the value of a secret that the configuration names; by default none is
            known.
        code: what is known of the code beside the version of the package, e.g. its commit; kept in
            the manifest.
        shared: storage of several machines: a step that is done there is fetched and not run, one
            that is done here is uploaded. None: there is none.

    Raises:
        LeakageError: if an input has seen held-out interactions the step must not see.
        ArtifactError: if an input is missing or an output was not written.
        DataError: if data outside the store changed while the step read them.
        DiskFullError: if the store cannot take what the step writes.
    """
    started = time.monotonic()
    step = get_step(name)
    identity = step_identity(step, config, inputs)
    key = make_key(identity)
    check_leaks(step, config, inputs)
    used = {entry.name: inputs[entry.name] for entry in inputs_of(step, config)}
    with (
        naming_full_disk(store.root, f"output and checkpoints of {name}"),
        RunRegister(store.root, config.dataset).using(),
        store.lock(config.dataset, step.name, key),
    ):
        manifest = None if refresh else _find_intact(step, config, key, store)
        was_reused, fetched_from = manifest is not None, ""
        if manifest is None and shared is not None and not refresh:
            manifest = shared.fetch(store, config.dataset, step.name, key, used, progress)
            fetched_from = shared.url if manifest is not None else ""
        if manifest is None:
            prepare = partial(
                StepContext,
                config,
                progress=progress or NoProgress(),
                n_processes=n_processes,
                hosts=hosts,
                open_cluster=open_cluster,
                read_secret=read_secret,
            )
            device = _find_device() if device == "auto" else _checked(device)
            on_accelerator = device != "cpu" and step.uses_accelerator(config)
            with hold_accelerator() if on_accelerator else nullcontext():
                manifest = _run_and_commit(
                    step, identity, config, used, store, open_tracker, prepare, device, code or {}
                )
        store.clear_leftovers(config.dataset, step.name, key)
        if shared is not None and not fetched_from:
            shared.push(store, manifest, replaces=not was_reused, progress=progress)
        report = StepReport(**store.report(config.dataset, step.name, key))
    seconds = time.monotonic() - started
    return StepResult(manifest, report, was_reused or bool(fetched_from), seconds, fetched_from)


def _run_and_commit(
    step: Step,
    identity: Mapping[str, Any],
    config: PipelineConfig,
    used: Mapping[str, ArtifactRef],
    store: ArtifactStore,
    open_tracker: OpenTracker | None,
    prepare: Callable[..., StepContext],
    device: str,
    code: Mapping[str, str],
) -> Manifest:
    started_at, started = datetime.now(UTC), time.monotonic()
    key = make_key(identity)
    readers = {entry: store.open(ref) for entry, ref in used.items()}
    pending = store.begin(config.dataset, step.name, key)
    tracking = open_tracker(step, key) if open_tracker else nullcontext(NullTracker())
    with pending.discarded_on_error(), tracking as tracker:
        run = importlib.import_module(f"sicsrec.steps.{step.name}").run
        keep_torch_to_usable_cores()
        context = prepare(inputs=readers, pending=pending, tracker=tracker, device=device)
        report: StepReport = run(context)
        _check_unchanged(step, config, identity["external_inputs"])
        manifest = Manifest(
            dataset=config.dataset,
            step=step.name,
            step_version=step.version,
            key=key,
            config=identity["config"],
            seed=identity["seed"],
            inputs=describe_inputs(used),
            external_inputs=identity["external_inputs"],
            outputs=_describe_outputs(step, config, pending, used),
            started=started_at.isoformat(timespec="milliseconds"),
            seconds=round(time.monotonic() - started, 3),
            code={"sicsrec": importlib.metadata.version("sicsrec"), **code},
            environment={"python": platform.python_version(), "device": device},
            tracking=tracker.identity(),
        )
        return store.commit(
            pending,
            manifest,
            {"rows": report.rows, "rows_of": report.rows_of, "content": report.content},
        )


def _check_unchanged(step: Step, config: PipelineConfig, external: Mapping[str, str]) -> None:
    """Refuse to keep under a key what was made of other data than the key names.

    Raises:
        DataError: naming what changed since the key was made.
    """
    now = external_inputs(step.name, config)
    changed = sorted(name for name in external if now.get(name) != external[name])
    if changed:
        raise DataError(
            f"{step.name}: {', '.join(changed)} changed while the step waited or read; nothing is "
            "kept of it. Run it again once they are in place"
        )


def _find_device() -> str:
    import torch

    # An Apple GPU has no float64, which some measures of quality are computed in.
    return "cuda" if torch.cuda.is_available() else "cpu"


def _checked(device: str) -> str:
    """Return the device.

    Raises:
        ConfigError: if torch does not know or find it.
    """
    if device == "cpu":
        return device
    import torch

    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError) as err:
        raise ConfigError(
            f"the device {device!r} is none that torch knows; give auto, cpu, cuda, or one of "
            "several GPUs, such as cuda:1"
        ) from err
    n_apple = int(torch.backends.mps.is_available())
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": n_apple}
    n_found = counts.get(wanted.type, 0)
    if (wanted.index or 0) >= n_found:
        raise ConfigError(
            f"the device {device} cannot be used: torch finds {n_found} of its kind here. Name "
            "another, or auto (SICSREC_DEVICE); `sicsrec doctor` says what there is"
        )
    return device


def _describe_outputs(
    step: Step,
    config: PipelineConfig,
    pending: PendingArtifact,
    used: Mapping[str, ArtifactRef],
) -> dict[str, OutputEntry]:
    outputs = outputs_of(step, config)
    declared = {output.name for output in outputs}
    written = pending.output_names()
    if written != declared:
        raise ArtifactError(
            f"step {step.name} wrote the outputs {sorted(written)}, declared {sorted(declared)}"
        )
    inherited = frozenset().union(*(ref.sees for ref in used.values()))
    sees = {
        output.name: tuple(sorted(inherited if output.sees is None else output.sees))
        for output in outputs
    }
    return pending.describe(sees)
