"""Where the files of an encoder lie, if they lie on this machine."""

from pathlib import Path

from sicsrec.config.encoders import EncoderConfig, TransformersEncoderConfig
from sicsrec.model_files import find_model_folder
from sicsrec.paths import expanded

_LOCAL_PREFIX = "local-dir:"


def local_model_folder(encoder: EncoderConfig) -> Path | None:
    """Return the folder an encoder is loaded from, or None when it is not a local one.

    Raises:
        ConfigError: if the model is named as local but its folder or package does not exist.
    """
    if encoder.model is None:
        return None
    # To open_clip a bare name is an architecture, whatever folder has the same name.
    is_transformers = isinstance(encoder, TransformersEncoderConfig)
    return find_model_folder(encoder.model, "encoder", takes_plain_folder=is_transformers)


def portable_name(model: str) -> str:
    """Return a model's name without the part of it that only holds on one machine.

    >>> portable_name("/home/me/models/bert-base"), portable_name("local-dir:/data/clip")
    ('bert-base', 'local-dir:clip')
    >>> portable_name("google-bert/bert-base-chinese")
    'google-bert/bert-base-chinese'
    """
    prefix = _LOCAL_PREFIX if model.startswith(_LOCAL_PREFIX) else ""
    path = expanded(model.removeprefix(_LOCAL_PREFIX), "encoder model")
    return f"{prefix}{path.name}" if prefix or path.is_absolute() else model
