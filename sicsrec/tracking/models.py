"""Trained models in MLflow: logged with all they need, registered, and given their aliases.

A logged model is a pyfunc whose code is :mod:`sicsrec.tracking.served_model` (models from code) and
whose weights are safetensors; nothing is pickled. It holds the model folder of the step
``export``, the users' histories, the validation ranks by which the next candidate is compared with
it, and a copy of the library, so that its requirements name public packages alone.
"""

import importlib.metadata
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from sicsrec.linking import link_or_copy, link_or_copy_folder
from sicsrec.liveness import is_abandoned, process_tags
from sicsrec.tracking.mlflow_store import MlflowStore

logger = logging.getLogger(__name__)

CANDIDATE, CHAMPION = "candidate", "champion"
KEY_TAG, MODEL_TAG = "sicsrec.export", "sicsrec.model_id"
DECISION_TAG, REASON_TAG = "sicsrec.decision", "sicsrec.reason"
VALIDATION_FILE = "validation.parquet"
_DESCRIPTION = (
    "Recommends items to users it knows, and for histories it is told. The newest version is "
    f"`{CANDIDATE}`; `{CHAMPION}` is the one that no later version was shown to beat, and each "
    "version says why it is what it is."
)

_CODE = Path(__file__).with_name("served_model.py")
_LIBRARY = Path(__file__).parents[1]
_CARD = "model_card.json"
_ARTIFACTS = "artifacts"

REQUIREMENTS = (
    "filelock",
    "jaxtyping",
    "joblib",
    "mlflow",
    "numpy",
    "open_clip_torch",
    "pandas",
    "pillow",
    "polars",
    "pyarrow",
    "pydantic",
    "safetensors",
    "torch",
    "torchvision",
    "transformers",
)
"""Distributions that loading a model folder and encoding new items import."""


@dataclass(frozen=True)
class ModelFiles:
    """What a logged model is made of."""

    folder: Path
    """The model folder."""
    histories: Path
    """What users watched; see :mod:`sicsrec.recommender.service`."""
    validation: Path
    """Validation targets, their ranks and the protocol: user_id, item_id, rank, remove_seen,
    n_items."""


@dataclass(frozen=True)
class RegisteredModel:
    """One version of a registered model."""

    name: str
    version: str
    model_id: str
    decision: str
    """``champion`` or ``candidate``; empty while it is not decided."""
    reason: str

    @property
    def summary(self) -> str:
        """One line for people."""
        return f"{self.name} version {self.version}, {self.decision}: {self.reason}"


def pinned_requirements() -> list[str]:
    """Return the distributions that serving needs, at the versions that are installed."""
    # What follows a plus sign names a build, e.g. for a GPU, that public indices do not have.
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in REQUIREMENTS]


class ModelRegistry:
    """Logs and registers the models of one dataset.

    Args:
        store: where records lie.
        dataset: the registered model is called ``sicsrec-<dataset>``.
    """

    def __init__(self, store: MlflowStore, dataset: str) -> None:
        self.client = store.client
        self.name = f"sicsrec-{dataset}"
        self._store = store

    def find(self, key: str) -> RegisteredModel | None:
        """Return the version that was made from this export, if there is one."""
        found = self.client.search_model_versions(
            f"name = '{self.name}' and tags.`{KEY_TAG}` = '{key}'"
        )
        return _describe(found[0]) if found else None

    def register(
        self,
        files: ModelFiles,
        work: Path,
        *,
        key: str,
        run_id: str,
        example: Mapping[str, object],
        parameters: Mapping[str, object],
        tags: Mapping[str, str],
    ) -> RegisteredModel:
        """Log a model under a run and register it with the alias ``candidate``.

        Its bytes are copied once, from the store to where MLflow keeps them.

        Args:
            files: what it is made of.
            work: a folder on their file system; the model is put together there from links.
            key: key of the export.
            run_id: the run that made it.
            example: a request.
            parameters: k and remove_seen where a request does not say.
            tags: of the model and of its version.

        Raises:
            MlflowException: if the store refuses.
        """
        experiment_id = self.client.get_run(run_id).info.experiment_id
        self._delete_abandoned(experiment_id)
        tags = {**tags, KEY_TAG: key}
        logged = self.client.create_logged_model(
            experiment_id,
            self.name,
            run_id,
            tags={**tags, **process_tags()},
            model_type="recommender",
        )
        try:
            with _as_default_store(self._store.uri):
                self._log(files, work, logged.model_id, run_id, example, parameters)
        except BaseException:
            self._delete_files(logged)
            self.client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
            raise
        self.client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        self.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        # Two processes may register the first model of a dataset at once.
        with suppress(MlflowException):
            self.client.create_registered_model(self.name, description=_DESCRIPTION)
        with _as_default_store(self._store.uri):
            version = self.client.create_model_version(
                self.name,
                f"models:/{logged.model_id}",
                run_id,
                tags={**tags, MODEL_TAG: logged.model_id},
                model_id=logged.model_id,
            )
        self.client.set_registered_model_alias(self.name, CANDIDATE, version.version)
        return _describe(version)

    def _delete_abandoned(self, experiment_id: str) -> None:
        """Delete the models that processes left half logged which were killed."""
        for model in self.client.search_logged_models([experiment_id]):
            if model.status == LoggedModelStatus.PENDING and is_abandoned(model.tags):
                self._delete_files(model)
                self.client.delete_logged_model(model.model_id)

    def _delete_files(self, model: LoggedModel) -> None:
        """Delete what was copied of a model, which MLflow keeps also when the model is deleted."""
        location = model.artifact_location
        try:
            get_artifact_repository(location, tracking_uri=self._store.uri).delete_artifacts()
        except Exception:  # noqa: BLE001
            # Every kind of storage refuses with errors of its own; no model may wait for that.
            logger.warning("files of the half logged model %s stay where they are", model.model_id)

    def champion_validation(self, folder: Path) -> Path | None:
        """Fetch the validation ranks of the champion into ``folder``; None without one.

        Raises:
            MlflowException: if the store refuses, or no model of the dataset is registered: neither
                may be taken for the absence of a champion, whose place the next model would get.
        """
        number = self.client.get_registered_model(self.name).aliases.get(CHAMPION)
        if number is None:
            return None
        version = self.client.get_model_version(self.name, number)
        location = self.client.get_logged_model(version.tags[MODEL_TAG]).artifact_location
        fetched = mlflow.artifacts.download_artifacts(
            artifact_uri=f"{location}/{_ARTIFACTS}/{VALIDATION_FILE}",
            dst_path=str(folder),
            tracking_uri=self._store.uri,
        )
        return Path(fetched)

    def decide(self, model: RegisteredModel, *, promoted: bool, reason: str) -> RegisteredModel:
        """Record a decision on a version; a promoted one takes the alias ``champion``."""
        decision = CHAMPION if promoted else CANDIDATE
        if promoted:
            self.client.set_registered_model_alias(self.name, CHAMPION, model.version)
        for name, value in ((DECISION_TAG, decision), (REASON_TAG, reason)):
            self.client.set_model_version_tag(self.name, model.version, name, value)
        self.client.update_model_version(self.name, model.version, f"{decision}: {reason}")
        return RegisteredModel(model.name, model.version, model.model_id, decision, reason)

    def _log(
        self,
        files: ModelFiles,
        work: Path,
        model_id: str,
        run_id: str,
        example: Mapping[str, object],
        parameters: Mapping[str, object],
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="model-", dir=work) as name:
            folder, parts = Path(name) / "model", Path(name) / _ARTIFACTS
            link_or_copy_folder(files.folder, parts / "model")
            for path, own in (
                (files.folder / _CARD, _CARD),
                (files.histories, "histories.parquet"),
                (files.validation, VALIDATION_FILE),
            ):
                link_or_copy(path, parts / own)
            mlflow.pyfunc.save_model(
                path=folder,
                python_model=str(_CODE),
                # MLflow copies artifacts twice on their way, so it is given the smallest alone. The
                # others lie beside it already, where the example is answered with them.
                artifacts={"card": str(parts / _CARD)},
                code_paths=[str(_LIBRARY)],
                # The signature comes from the types of served_model.py.
                input_example=([dict(example)], dict(parameters)),
                pip_requirements=pinned_requirements(),
                mlflow_model=Model(model_id=model_id, run_id=run_id, model_uuid=model_id),
            )
            for path in sorted(parts.rglob("*")):
                place = folder / _ARTIFACTS / path.relative_to(parts)
                if path.is_file() and path.name != _CARD:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    path.rename(place)
            link_or_copy(files.folder / _CARD, folder / _ARTIFACTS / "model" / _CARD)
            self.client.log_model_artifacts(model_id, str(folder))


@contextmanager
def _as_default_store(uri: str) -> Iterator[None]:
    """Make a store that of the process: MLflow saves models and looks up the source of a version
    there, whatever store its client was made for.

    Setting it sets the environment variable too, which other stores of this process are made by, so
    that is what is put back.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def _describe(version: ModelVersion) -> RegisteredModel:
    return RegisteredModel(
        version.name,
        str(version.version),
        version.tags[MODEL_TAG],
        version.tags.get(DECISION_TAG, ""),
        version.tags.get(REASON_TAG, ""),
    )
