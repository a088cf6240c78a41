"""Where the files of an encoder lie, if they lie on this machine."""

import importlib.util
from pathlib import Path

from sicsrec.config import EncoderConfig, TransformersEncoderConfig
from sicsrec.errors import ConfigError

_LOCAL_PREFIX = "local-dir:"


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
    elif name.startswith(_LOCAL_PREFIX):
        path = Path(name.removeprefix(_LOCAL_PREFIX))
    elif isinstance(encoder, TransformersEncoderConfig) and Path(name).is_dir():
        path = Path(name)
    else:
        return None
    if not path.is_dir():
        raise ConfigError(f"encoder model {name!r}: there is no folder {path}")
    return path


def portable_name(model: str) -> str:
    """Return a model's name without the part of it that only holds on one machine.

    >>> portable_name("/home/me/models/bert-base"), portable_name("local-dir:/data/clip")
    ('bert-base', 'local-dir:clip')
    >>> portable_name("google-bert/bert-base-chinese")
    'google-bert/bert-base-chinese'
    """
    prefix = _LOCAL_PREFIX if model.startswith(_LOCAL_PREFIX) else ""
    path = Path(model.removeprefix(_LOCAL_PREFIX)).expanduser()
    return f"{prefix}{path.name}" if prefix or path.is_absolute() else model
