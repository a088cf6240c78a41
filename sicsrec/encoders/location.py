"""Where the files of an encoder lie, if they lie on this machine."""

from pathlib import Path

from sicsrec.config import EncoderConfig, TransformersEncoderConfig
from sicsrec.model_files import find_model_folder


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
