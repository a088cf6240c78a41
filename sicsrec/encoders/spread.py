"""Encoding by many processes: each takes whole shards and leaves them in the shared work folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from sicsrec.cluster import Cluster, check_seen
from sicsrec.data.catalog import ItemCatalog
from sicsrec.encoders.base import ItemEncoder
from sicsrec.encoders.builder import load_encoder
from sicsrec.encoders.content import ItemContent, open_content
from sicsrec.encoders.encoding import EncodingSettings, VectorShards, encode_shards
from sicsrec.progress import NoProgress, Progress


@dataclass(frozen=True)
class ShardSource:
    """All that a worker needs to encode any shard of one modality."""

    encoder: Path
    """Folder of a saved encoder."""
    catalog: Path
    covers: Path
    work: Path
    """Folder of the shards."""
    device: str
    settings: EncodingSettings
    shard_items: int


def spread_shards(
    source: ShardSource, shards: VectorShards, cluster: Cluster, progress: Progress
) -> VectorShards:
    """Let a cluster encode the shards that are missing; they are those that one machine makes.

    Args:
        source: of the shards.
        shards: of the same modality, folder and size.
        cluster: who encodes.
        progress: told the number of items.

    Raises:
        ConfigError: if a worker does not see the files.
        EncoderError: as :func:`sicsrec.encoders.encoding.encode_shards`.
    """
    missing = shards.missing()
    n_left = sum(len(shards.parts[number]) for number in missing)
    with progress.stage(f"encoding {shards.modality}", n_left) as advance:
        numbers: Iterator[int | None] = iter(missing)
        for number, _ in cluster.spread(partial(encode_shard, source), numbers):
            advance(len(shards.parts[number]), f"{cluster.n_workers} workers")
    return shards


def encode_shard(source: ShardSource, number: int) -> None:
    """Encode one shard; what a worker is asked to do."""
    encoder, content = _opened(source)
    encode_shards(
        encoder,
        content,
        source.settings,
        shard_items=source.shard_items,
        work=source.work,
        progress=NoProgress(),
        only=[number],
    )


@lru_cache(maxsize=1)
def _opened(source: ShardSource) -> tuple[ItemEncoder, ItemContent]:
    """Load encoder and content once per worker, not once per shard."""
    check_seen(source.encoder, source.catalog, source.covers, source.work)
    encoder = load_encoder(source.encoder, source.device)
    content = open_content(encoder.modality, ItemCatalog.read(source.catalog), source.covers)
    return encoder, content
