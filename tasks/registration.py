"""Logs a finished export as a model in MLflow, registers it, and decides on its alias."""

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from sicsrec.artifacts import ArtifactRef, ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.errors import SicsrecError, TrackingError
from sicsrec.tracking import is_tracking_failure
from sicsrec.tracking.models import ModelFiles, ModelRegistry, RegisteredModel
from sicsrec.tracking.outbox import first_line
from tasks.record import RunRecord, attach, config_digest, open_store
from tasks.settings import Settings

logger = logging.getLogger("sicsrec.tasks")

_NEEDED = ("export/model", "evaluate/per_user", "ingest/interactions")
"""What a model is registered from and judged by."""


def register_model(config: PipelineConfig, refs: Mapping[str, ArtifactRef], run: RunRecord) -> str:
    """Register the model of this run, unless that export is registered already.

    A store that fails here does not fail the run, whose outputs are all there: it is said, and the
    next run tries again.

    Args:
        config: the whole configuration.
        refs: references of all outputs of the run.
        run: the record of the run.

    Returns:
        One line for people; empty where nothing was to be registered.
    """
    settings = Settings.from_environment()
    wanted = config.export.register_model
    if not (settings.mlflow_uri is None if wanted is None else wanted):
        return ""
    if "export/model" not in refs:
        return ""
    try:
        model = _register(config, refs, run, settings)
    except Exception as err:
        why = _reason(err)
        # What a server said needs no traceback, which would hold its address, password and all;
        # errors of HTTP clients are OSErrors.
        is_ours = not (is_tracking_failure(err) or isinstance(err, OSError))
        logger.warning("the model was not registered in MLflow: %s", why, exc_info=is_ours)
        return f"not registered, the next run tries again: {why}"
    logger.info("registered %s", model.summary)
    return model.summary


def _reason(error: Exception) -> str:
    """Say in one line why a model was not registered; first of all whether the server is there."""
    if isinstance(error, SicsrecError):
        return " ".join(str(error).split())
    try:
        open_store().check()
    except TrackingError as away:
        return str(away)
    return first_line(error)


def _register(
    config: PipelineConfig, refs: Mapping[str, ArtifactRef], run: RunRecord, settings: Settings
) -> RegisteredModel:
    key = refs["export/model"].key
    registry = ModelRegistry(open_store(), config.dataset)
    with _workshop(settings.home) as folder:
        # Not before: another run may register and judge it while this one waits.
        found = registry.find(key)
        if found is not None and found.decision:
            return found
        missing = [name for name in _NEEDED if name not in refs]
        if missing:
            raise SicsrecError(
                f"it is judged by {' and '.join(missing)}, which is no part of this run"
            )
        # These import torch, which a run that reuses everything need not wait for.
        from sicsrec.evaluation.promotion import judge_files
        from sicsrec.steps.model_parts import make_model_parts

        store = ArtifactStore(settings.store_root)
        parts = make_model_parts(store, refs, config, folder)
        if found is None:
            found = registry.register(
                ModelFiles(parts.folder, parts.histories, parts.validation),
                folder,
                key=key,
                run_id=run.mlflow_run_id,
                example=parts.example,
                parameters=parts.parameters,
                tags={
                    "dataset": config.dataset,
                    "ranks_by": config.export.score,
                    "config_digest": config_digest(config),
                },
            )
        champion = folder / "champion"
        champion.mkdir()
        verdict = judge_files(parts.validation, registry.champion_validation(champion))
        model = registry.decide(found, promoted=verdict.promoted, reason=verdict.reason)
    attach(run).set_tags({"registered": model.summary})
    return model


@contextmanager
def _workshop(home: Path) -> Iterator[Path]:
    """Yield an empty folder on the file system of the models, to one process at a time.

    What a killed process left there would keep a copy of all histories and, by its links, the
    bytes of a model that ``gc`` removes.
    """
    folder = home / "mlflow" / ".registering"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
