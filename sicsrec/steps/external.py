"""Digests of what a step reads from outside the store: raw data, local models, given vectors."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sicsrec.artifacts import digest_file, digest_folder, digest_visible
from sicsrec.config import PipelineConfig
from sicsrec.data.images import IMAGE_SUFFIXES
from sicsrec.data.videos import VIDEO_SUFFIXES
from sicsrec.encoders.location import local_model_folder, portable_name
from sicsrec.errors import DataError
from sicsrec.model_files import find_model_folder
from sicsrec.paths import printable

_RAW_DATA = "raw_data"
_LARGE_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES | {".mp3", ".wav", ".zip"}


def external_inputs(step_name: str, config: PipelineConfig) -> dict[str, str]:
    """Return a digest for every file or folder outside the store that a step reads.

    Raises:
        DataError: if the raw data or a given vector file does not exist, or anything that counts
            cannot be read.
        ConfigError: if a local model does not exist.
    """
    with _naming_unreadable():
        return {name: _digest(name, path) for name, path in _places(step_name, config).items()}


def check_places(steps: Iterable[str], config: PipelineConfig) -> None:
    """Refuse a configuration that names files or folders that are not there; none is read.

    Args:
        steps: names of the steps that will run.
        config: the whole configuration.

    Raises:
        DataError: if the raw data or a given vector file does not exist, or a folder above it may
            not be looked into.
        ConfigError: if a local model does not exist.
    """
    with _naming_unreadable():
        for step in steps:
            _places(step, config)


@contextmanager
def _naming_unreadable() -> Iterator[None]:
    try:
        yield
    except OSError as err:
        if err.filename is None:
            raise
        raise DataError(
            f"{printable(str(err.filename))} cannot be read: {err.strerror}. See that "
            "whoever runs this may read it, or name another place"
        ) from err


def _places(step_name: str, config: PipelineConfig) -> dict[str, Path]:
    """Return the files and folders outside the store that a step reads; all of them are there."""
    if step_name == "ingest" and config.ingest.path is not None:
        root = Path(config.ingest.path)
        if not root.is_dir():
            raise DataError(f"ingest.path: there is no folder {root}")
        return {_RAW_DATA: root}
    if step_name == "encode_items" and config.encode_items.source.kind == "given":
        source = config.encode_items.source
        files = {"text": source.text, "image": source.image}
        given = {name: Path(path) for name, path in files.items() if path is not None}
        for path in given.values():
            if not path.is_file():
                raise DataError(f"encode_items.source: there is no vector file {path}")
        return given
    folders: dict[str, Path | None] = {}
    if step_name == "align_encoders":
        encoders = {
            "text_encoder": config.align_encoders.text_encoder,
            "image_encoder": config.align_encoders.image_encoder,
        }
        folders = {name: local_model_folder(entry) for name, entry in encoders.items() if entry}
    if step_name == "sample_pairs":
        folders = _judge_folders(config)
    return {name: folder for name, folder in folders.items() if folder}


def _judge_folders(config: PipelineConfig) -> dict[str, Path | None]:
    judge, encoder = config.sample_pairs.judge, config.align_encoders.text_encoder
    if judge.kind == "transformers":
        return {"judge": find_model_folder(judge.model, "judge")}
    if judge.kind == "similarity" and judge.vectors == "encoder" and encoder is not None:
        return {"text_encoder": local_model_folder(encoder)}
    return {}


def without_places(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return config values with names in place of paths that only hold on one machine.

    What lies there is known by its digest, see :func:`external_inputs`.

    Args:
        values: of one section, as JSON.
    """
    plain: dict[str, Any] = {
        name: without_places(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
    }
    is_model = "library" in plain or plain.get("kind") == "transformers"
    if is_model and isinstance(plain.get("model"), str):
        plain["model"] = portable_name(plain["model"])
    if plain.get("kind") == "given":
        for name in ("text", "image"):
            plain[name] = plain[name] and Path(plain[name]).name
    return plain


def _digest(name: str, path: Path) -> str:
    if name == _RAW_DATA:
        return _digest_raw_data(path)
    return digest_file(path) if path.is_file() else digest_folder(path)


def _digest_raw_data(root: Path) -> str:
    """Digest tables by content; images and videos, which may be millions or terabytes, by size and
    time of change. Where links to folders lead counts too.

    Hidden files and folders are no data: a home there, ``.sicsrec``, changes with every run.
    """
    return digest_visible(root, _mark)


def _mark(path: Path) -> str:
    if path.suffix.lower() not in _LARGE_SUFFIXES:
        return digest_file(path)
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}"
