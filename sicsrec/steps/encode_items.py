"""Items to text and image vectors (arXiv 2510.10556, content embeddings).

Writes ``vectors/text.parquet`` and ``vectors/image.parquet``, of the modalities there are, with one
row per item that has the modality; and ``vectors/vectors.json``, which says how they were made.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sicsrec.artifacts import digest_file, digest_folder
from sicsrec.config import GivenSourceConfig
from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.given_vectors import read_given_vectors
from sicsrec.data.vectors import MODALITIES, write_vectors
from sicsrec.encoders.builder import FILE_NAME as ENCODER_FILE
from sicsrec.encoders.builder import load_encoder
from sicsrec.encoders.content import encode_content, open_content
from sicsrec.errors import DataError
from sicsrec.steps.context import StepContext, StepReport

DESCRIPTION_FILE = "vectors.json"

Encoded = tuple[NDArray[np.int32], NDArray[np.float32], dict[str, Any]]
"""Ascending item indices [n], vectors [n, D], and how they were made."""


def run(context: StepContext) -> StepReport:
    """Make or read the vectors of every modality there is.

    Raises:
        DataError: if given vectors do not fit the catalogue.
        EncoderError: if an encoder cannot be read or gives unusable vectors.
    """
    config = context.config.encode_items
    catalog = ItemCatalog.read(context.input("ingest/catalog").path())
    folder = context.output("vectors")
    described: dict[str, Any] = {}
    n_rows = 0
    for modality in MODALITIES:
        encoded = (
            _read_given(config.source, modality, catalog, config.normalise)
            if isinstance(config.source, GivenSourceConfig)
            else _encode(context, modality, catalog)
        )
        if encoded is None:
            continue
        indices, matrix, made_by = encoded
        write_vectors(folder, modality, catalog, indices, matrix)
        n_rows += len(indices)
        described[modality] = {
            "dim": matrix.shape[1],
            "normalised": config.normalise,
            "items": len(indices),
            "items_without": catalog.n_items - len(indices),
            **made_by,
        }
    content = {"source": config.source.kind, "modalities": described}
    text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True)
    (folder / DESCRIPTION_FILE).write_text(text + "\n", encoding="utf-8")
    context.tracker.log_metrics(
        {f"vectors/{name}_items": float(entry["items"]) for name, entry in described.items()}
    )
    return StepReport(rows=n_rows, rows_of="vectors", content=content)


def _encode(context: StepContext, modality: str, catalog: ItemCatalog) -> Encoded | None:
    encoders = context.input("align_encoders/encoders").path()
    folder = encoders / modality
    if not (folder / ENCODER_FILE).is_file():
        return None
    encoder = load_encoder(folder, context.device)
    content = open_content(encoder.modality, catalog, context.input("ingest/covers").path())
    config = context.config.encode_items
    indices, matrix = encode_content(
        encoder,
        content,
        batch_size=config.batch_size,
        normalise=config.normalise,
        progress=context.progress,
    )
    return indices, matrix, {**encoder.describe(), "encoder_digest": digest_folder(folder)}


def _read_given(
    source: GivenSourceConfig, modality: str, catalog: ItemCatalog, normalise: bool
) -> Encoded | None:
    name: str | None = getattr(source, modality)
    if name is None:
        return None
    path = Path(name)
    matrix = read_given_vectors(path, catalog)
    if normalise:
        lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
        bad = np.flatnonzero(lengths[:, 0] == 0.0)
        if len(bad):
            raise DataError(
                f"{path}: {len(bad)} vectors have no length and cannot be normalised, e.g. of the "
                f"items {catalog.item_ids.gather(bad[:3]).to_list()}; correct them or set "
                "encode_items.normalise to false"
            )
        matrix = matrix / lengths
    indices = np.arange(1, catalog.n_items + 1, dtype=np.int32)
    return indices, matrix, {"file": path.name, "file_digest": digest_file(path)}
