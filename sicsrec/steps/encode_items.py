"""Items to text and image vectors (arXiv 2510.10556, content embeddings).

Writes ``vectors/text.parquet`` and ``vectors/image.parquet``, of the modalities there are, with one
row per item that has the modality; and ``vectors/vectors.json``, which says how they were made.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sicsrec.artifacts import digest_file, digest_folder
from sicsrec.cluster import Cluster
from sicsrec.config import EncodeItemsConfig, GivenSourceConfig
from sicsrec.config.encoders import VectorDtype
from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.given_vectors import read_given_vectors
from sicsrec.data.vectors import MODALITIES, Matrix, write_vectors
from sicsrec.encoders.base import ItemEncoder
from sicsrec.encoders.builder import FILE_NAME as ENCODER_FILE
from sicsrec.encoders.builder import load_encoder
from sicsrec.encoders.content import ItemContent, open_content
from sicsrec.encoders.encoding import EncodingSettings, VectorShards, encode_shards
from sicsrec.encoders.preparation import count_workers
from sicsrec.encoders.spread import ShardSource, spread_shards
from sicsrec.errors import DataError
from sicsrec.steps.context import StepContext, StepReport

DESCRIPTION_FILE = "vectors.json"

# Squares of float32 numbers beyond overflow, or lose digits.
_LEAST_LENGTH, _MOST_LENGTH = 1e-15, 1e15

Encoded = tuple[NDArray[np.int32], VectorShards | Matrix, dict[str, Any]]
"""Ascending item indices [n], vectors [n, D], whole or in parts, and how they were made."""


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
            _read_given(config.source, modality, catalog, config)
            if isinstance(config.source, GivenSourceConfig)
            else _encode(context, modality, catalog)
        )
        if encoded is None:
            continue
        indices, vectors, made_by = encoded
        write_vectors(folder, modality, catalog, indices, vectors)
        n_rows += len(indices)
        described[modality] = {
            "dtype": config.dtype,
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
    # Texts are tokenised faster than they could be sent to another process.
    is_image = encoder.modality == "image"
    device = next(encoder.parameters()).device
    n_batches = -(-len(content.indices) // config.batch_size)
    settings = EncodingSettings(
        config.batch_size,
        config.normalise,
        config.dtype,
        config.precision,
        count_workers(config.n_workers, device, n_batches) if is_image else 0,
    )
    with context.open_cluster() as cluster:
        if cluster is None:
            shards = encode_shards(
                encoder,
                content,
                settings,
                shard_items=config.shard_items,
                work=context.work,
                progress=context.progress,
            )
        else:
            shards = _encode_elsewhere(context, encoder, content, settings, cluster)
    made_by = {
        **encoder.describe(),
        "dim": encoder.dim,
        "encoder_digest": digest_folder(folder),
        "precision": config.precision,
    }
    return content.indices, shards, made_by


def _encode_elsewhere(
    context: StepContext,
    encoder: ItemEncoder,
    content: ItemContent,
    settings: EncodingSettings,
    cluster: Cluster,
) -> VectorShards:
    shard_items = context.config.encode_items.shard_items
    source = ShardSource(
        encoder=context.input("align_encoders/encoders").path(encoder.modality),
        catalog=context.input("ingest/catalog").path(),
        covers=context.input("ingest/covers").path(),
        work=context.work.resolve(),
        device=context.device,
        # The workers are the processes; most engines let them have none of their own.
        settings=replace(settings, n_workers=0),
        shard_items=shard_items,
    )
    shards = VectorShards(
        context.work, encoder.modality, content.indices, shard_items, encoder.dim, settings.dtype
    )
    return spread_shards(source, shards, cluster, context.progress)


def _read_given(
    source: GivenSourceConfig, modality: str, catalog: ItemCatalog, config: EncodeItemsConfig
) -> Encoded | None:
    name: str | None = getattr(source, modality)
    if name is None:
        return None
    path = Path(name)
    matrix = read_given_vectors(path, catalog)
    if config.normalise:
        bad = np.flatnonzero(~matrix.any(axis=1))
        if len(bad):
            raise DataError(
                f"{path}: {len(bad)} vectors have no length and cannot be normalised, e.g. of the "
                f"items {catalog.item_ids.gather(bad[:3]).to_list()}; correct them or set "
                "encode_items.normalise to false"
            )
        matrix = _normalise(matrix)
    indices = np.arange(1, catalog.n_items + 1, dtype=np.int32)
    made_by = {"dim": matrix.shape[1], "file": path.name, "file_digest": digest_file(path)}
    return indices, _convert(matrix, config.dtype, path), made_by


def _normalise(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide rows, none of them zero, by their lengths, also where their squares leave float32."""
    with np.errstate(over="ignore", under="ignore"):
        lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    is_ordinary = (lengths > _LEAST_LENGTH) & (lengths < _MOST_LENGTH)
    unit: NDArray[np.float32] = np.divide(
        matrix, lengths, where=is_ordinary, out=np.zeros_like(matrix)
    )
    rest = np.flatnonzero(~is_ordinary[:, 0])
    wide = matrix[rest].astype(np.float64)
    unit[rest] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit


def _convert(matrix: NDArray[np.float32], dtype: VectorDtype, path: Path) -> Matrix:
    if dtype == "float16" and np.abs(matrix).max() > np.finfo(np.float16).max:
        raise DataError(
            f"{path}: some numbers are too large for encode_items.dtype = float16; set it to "
            "float32 or encode_items.normalise to true"
        )
    return matrix.astype(dtype, copy=False)
