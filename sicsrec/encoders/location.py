"""Where the files of an encoder lie, if they lie on this machine."""

import importlib.util
from pathlib import Path

from sicsrec.config import EncoderConfig, TransformersEncoderConfig
from sicsrec.errors import ConfigError


def local_model_folder(encoder: EncoderConfig) -> Path | None:
    """Return the folder an encoder is loaded from, or None when it is not a local one.

    Raises:
        ConfigError: if the model is named as local but its folder or package does not exist.
    """
    name = encoder.model
    if name is None:
        return None
    if name.startswith("package:"):
        module, _, folder = name.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ConfigError(
                f"encoder model {name!r}: the Python package {module!r} is not installed"
            )
        path = Path(spec.origin).parent / folder
    elif name.startswith("local-dir:"):
        path = Path(name.removeprefix("local-dir:"))
    elif isinstance(encoder, TransformersEncoderConfig) and Path(name).is_dir():
        path = Path(name)
    else:
        return None
    if not path.is_dir():
        raise ConfigError(f"encoder model {name!r}: there is no folder {path}")
    return path
