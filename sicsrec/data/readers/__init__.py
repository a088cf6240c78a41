"""Readers of raw layouts: each turns a folder into raw items, interactions and cover files."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

from sicsrec.config import IngestConfig
from sicsrec.data.readers.base import RawData
from sicsrec.errors import DataError
from sicsrec.registry import Registry

READERS = Registry(
    "reader",
    {
        "demo": "sicsrec.data.readers.demo:read_demo",
        "movielens_100k": "sicsrec.data.readers.movielens_100k:read_movielens_100k",
        "ninerec": "sicsrec.data.readers.ninerec:read_ninerec",
        "microlens": "sicsrec.data.readers.microlens:read_microlens",
        "tables": "sicsrec.data.readers.tables:read_tables",
    },
)
"""Kind of a reader's config section to its function ``(folder, section) -> RawData``."""


def read_raw(config: IngestConfig, scratch: Path) -> RawData:
    """Read the raw data that a configuration names.

    Args:
        config: the section ``ingest``.
        scratch: folder for raw files that a reader makes itself (the demo); otherwise unused.

    Raises:
        DataError: if files are missing or a file cannot be read as its layout says.
    """
    if config.reader.kind == "demo":
        folder = scratch
    elif config.path is None:
        raise DataError("ingest.path is missing: give the data folder, e.g. with --data FOLDER")
    else:
        folder = Path(config.path)
    if not folder.is_dir():
        raise DataError(f"ingest.path: there is no folder {folder}")
    read = cast("Callable[[Path, object], RawData]", READERS.get(config.reader.kind))
    return read(folder, config.reader)
