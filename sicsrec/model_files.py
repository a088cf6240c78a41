"""Where the files of pretrained models lie, and loading them without a network where possible."""

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sicsrec.errors import ConfigError, SicsrecError
from sicsrec.paths import expanded

logger = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")


def find_model_folder(name: str, owner: str, *, takes_plain_folder: bool = True) -> Path | None:
    """Return the folder a model is loaded from, or None when it is not a local one.

    Args:
        name: ``package:<module>/<folder>``, ``local-dir:<folder>``, a folder, or anything else.
        owner: what the model is for, in messages: encoder, judge.
        takes_plain_folder: whether the bare path of a folder is one.

    Raises:
        ConfigError: if the model is named as local but its folder or package does not exist.
    """
    if name.startswith("package:"):
        module, _, folder = name.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ConfigError(
                f"{owner} model {name!r}: the Python package {module!r} is not installed"
            )
        path = Path(spec.origin).parent / folder
    elif name.startswith("local-dir:"):
        path = expanded(name.removeprefix("local-dir:"), f"{owner} model")
    elif takes_plain_folder and (path := expanded(name, f"{owner} model")).is_dir():
        return path
    else:
        return None
    if not path.is_dir():
        raise ConfigError(f"{owner} model {name!r}: there is no folder {path}")
    return path


def load_local_first(
    what: str,
    load: Callable[..., Loaded],
    name: str,
    revision: str | None,
    *,
    owner: str,
    error: type[SicsrecError],
) -> Loaded:
    """Call ``load(source, ...)`` for what lies on this machine, then for the hub.

    What was downloaded once is used without asking the hub again, so runs repeat and work offline.

    Args:
        what: what is loaded, for the message: weights, tokenizer.
        load: a ``from_pretrained`` function.
        name: names the model, see :func:`find_model_folder`.
        revision: commit or tag on the hub.
        owner: what the model is for, in messages.
        error: raised when neither has it.
    """
    folder = find_model_folder(name, owner)
    source = name if folder is None else str(folder)
    arguments: dict[str, Any] = {"trust_remote_code": False}
    if folder is None:
        arguments["revision"] = revision or "main"
    try:
        return load(source, local_files_only=True, **arguments)
    except (OSError, ValueError) as err:
        if folder is not None:
            raise error(f"cannot load the {what} of {owner} {source}: {err}") from err
        logger.info("the %s of %s is not on this machine; asking the hub", what, source)
    try:
        return load(source, **arguments)
    except (OSError, ValueError) as err:
        raise error(
            f"cannot load the {what} of {owner} {source!r}: it is neither on this machine nor can "
            "it be had from the hub. Without a network, download the model elsewhere (config, "
            "model.safetensors, tokenizer or preprocessor files) and give that folder as the "
            f"{owner}'s model. Cause: {err}"
        ) from err
