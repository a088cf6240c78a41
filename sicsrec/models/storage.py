"""A model as a folder: ``config.json`` says what it is, ``model.safetensors`` holds the weights."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sicsrec.errors import ArtifactError
from sicsrec.models.base import SequenceModel
from sicsrec.registry import Registry

MODELS = Registry(
    "model",
    {
        "id_encoder": "sicsrec.models.id_encoder:IdEncoder",
        "sicsrec": "sicsrec.models.sicsrec:SICSRec",
        "gru4rec": "sicsrec.models.gru4rec:Gru4Rec",
        "content_encoder": "sicsrec.models.content_encoder:ContentEncoder",
        "frozen_features": "sicsrec.models.content_encoder:FrozenFeatures",
    },
)
"""All sequence models by their ``kind``."""


def save_model(model: SequenceModel, folder: Path) -> None:
    """Write a model into ``folder``."""
    config = {"kind": model.kind, "settings": model.settings()}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors")


def load_model(folder: Path, device: str = "cpu") -> SequenceModel:
    """Read a model that :func:`save_model` wrote, in evaluation mode.

    Raises:
        ArtifactError: if a file is missing or damaged, or the weights are not those of the
            described model.
        ConfigError: if the kind of model is unknown.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model_class, settings = MODELS.get(config["kind"]), dict(config["settings"])
        weights = load_file(folder / "model.safetensors")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as err:
        raise ArtifactError(f"{folder} is not a model folder: {err}") from err
    if not (isinstance(model_class, type) and issubclass(model_class, SequenceModel)):
        raise ArtifactError(f"{folder}: {config['kind']!r} is not a sequence model")
    try:
        model = model_class(**settings)
    except (TypeError, ValueError, KeyError, AttributeError) as err:
        raise ArtifactError(f"{folder}: config.json describes no model: {err}") from err
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as err:
        raise ArtifactError(f"{folder}: the weights do not fit the model: {err}") from err
    return model.to(device).eval()
