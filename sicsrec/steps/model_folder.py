"""What makes an exported model folder self-contained: item titles, and encoders for new items."""

import json
import logging
from pathlib import Path

import polars as pl

from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.vectors import MODALITIES
from sicsrec.encoders.builder import FILE_NAME as ENCODER_FILE
from sicsrec.linking import link_or_copy
from sicsrec.recommender import ITEMS_FILE
from sicsrec.recommender.encoders import ENCODERS_FOLDER, ENCODING_FILE
from sicsrec.steps.align_encoders import ADAPTER_FILE
from sicsrec.steps.context import StepContext

logger = logging.getLogger(__name__)


def write_items(catalog: ItemCatalog, folder: Path) -> None:
    """Write ids, indices and titles of the items."""
    columns = ["item_id", "item_index", "title"]
    catalog.frame.select(pl.col(columns)).write_parquet(folder / ITEMS_FILE)


def write_encoders(context: StepContext, folder: Path) -> dict[str, str]:
    """Add the encoders that the item vectors were made with, if the configuration wants them.

    Their files are linked where the file system can, so they take no further space in the store.

    Returns:
        What there is, for the card of the model folder; nothing where vectors were given.
    """
    config = context.config
    name = "align_encoders/encoders"
    if not config.export.encoders or name not in context.inputs:
        return {}
    source = context.input(name).path()
    target = folder / ENCODERS_FOLDER
    n_bytes = 0
    for modality in MODALITIES:
        if not (source / modality / ENCODER_FILE).is_file():
            continue
        for path in sorted((source / modality).rglob("*")):
            # The adapter served the alignment alone; no vector passes through it.
            if path.is_file() and path.name != ADAPTER_FILE:
                place = target / path.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                n_bytes += link_or_copy(path, place).stat().st_size
    description = {
        "normalise": config.encode_items.normalise,
        "covers": {
            "max_bytes": config.ingest.max_cover_bytes,
            "max_pixels": config.ingest.max_cover_pixels,
            "short_side": config.ingest.cover_short_side,
        },
        "text_fields": list(config.ingest.text_fields),
    }
    (target / ENCODING_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    logger.info("the model folder holds encoders of %.1f MB", n_bytes / 1e6)
    return {ENCODERS_FOLDER: f"text and image encoders for new items, {n_bytes / 1e6:.1f} MB"}
