"""Makes encoders from their configuration and keeps them in folders that describe themselves.

::

    <folder>/encoder.json        kind, modality, width, library, model, revision, preprocessing
    <folder>/...                 weights (safetensors), tokenizer or preprocessor of the library
"""

import json
import logging
from pathlib import Path
from typing import Any, cast

import torch

from sicsrec.config.encoders import EncoderConfig
from sicsrec.encoders import ENCODERS
from sicsrec.encoders.base import ItemEncoder, Modality
from sicsrec.errors import EncoderError

logger = logging.getLogger(__name__)

FILE_NAME = "encoder.json"
FORMAT = 1
"""Version of the folder's layout."""


def build_encoder(
    config: EncoderConfig, modality: Modality, seed: int, device: str = "cpu"
) -> ItemEncoder:
    """Load or make the encoder a configuration describes, frozen and in evaluation mode.

    Args:
        config: which encoder.
        modality: which tower.
        seed: of weights that are made on the spot.
        device: where it goes.

    Raises:
        EncoderError: if it cannot be loaded.
        ConfigError: if it is named as local and does not exist.
    """
    kind = cast("Any", ENCODERS.get(f"{config.library}_{modality}"))
    # A checkpoint may lack weights, such as those of a pooler that nothing reads; transformers
    # draws them, and they are part of what tells encoders apart.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder: ItemEncoder = kind.build(config, seed)
    encoder.set_trained("none")
    logger.info("%s encoder %s, width %d", modality, encoder.name, encoder.dim)
    return encoder.eval().to(device)


def save_encoder(encoder: ItemEncoder, folder: Path) -> None:
    """Write an encoder so that :func:`load_encoder` needs nothing but the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder.save(folder)
    content = {
        "format": FORMAT,
        "kind": encoder.kind,
        "modality": encoder.modality,
        "dim": encoder.dim,
        **encoder.describe(),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True)
    (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def read_description(folder: Path) -> dict[str, Any]:
    """Return what ``encoder.json`` in ``folder`` says.

    Raises:
        EncoderError: if there is none or it has another format.
    """
    try:
        content: dict[str, Any] = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise EncoderError(f"{folder} holds no readable {FILE_NAME}: {err}") from err
    if content.get("format") != FORMAT:
        raise EncoderError(
            f"{folder / FILE_NAME} has format {content.get('format')!r}; this release reads "
            f"{FORMAT}"
        )
    return content


def load_encoder(folder: Path, device: str = "cpu") -> ItemEncoder:
    """Read an encoder that :func:`save_encoder` wrote, frozen and in evaluation mode.

    Raises:
        EncoderError: if a file is missing, weights do not fit, or the width differs.
    """
    description = read_description(folder)
    kind = cast("Any", ENCODERS.get(description["kind"]))
    encoder: ItemEncoder = kind.load(folder, description)
    if encoder.dim != description["dim"]:
        raise EncoderError(
            f"{folder}: the encoder is {encoder.dim} wide, {FILE_NAME} says {description['dim']}"
        )
    encoder.set_trained("none")
    return encoder.eval().to(device)
