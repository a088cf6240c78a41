"""The item vectors that ``encode_items`` wrote, as the steps of stage 2 read them."""

from collections.abc import Sequence
from pathlib import Path

from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.vectors import MODALITIES, ItemVectors, read_vectors
from sicsrec.errors import ArtifactError, DataError


def read_all_vectors(folder: Path, catalog: ItemCatalog) -> list[ItemVectors]:
    """Read the vectors of every modality that ``encode_items`` wrote.

    Raises:
        ArtifactError: if there is none.
    """
    found = [read_vectors(folder, modality, catalog) for modality in MODALITIES]
    vectors = [entry for entry in found if entry is not None]
    if not vectors:
        raise ArtifactError(f"{folder} holds no vectors of any modality ({', '.join(MODALITIES)})")
    return vectors


def choose_vectors(
    vectors: list[ItemVectors], modalities: Sequence[str] | None, reader: str
) -> list[ItemVectors]:
    """Return the vectors of these modalities, all for None; ``reader`` is who asks in an error.

    Raises:
        DataError: if no item has a vector of a modality that is named.
    """
    if modalities is None:
        return vectors
    chosen = [entry for entry in vectors if entry.modality in modalities]
    for modality in modalities:
        if not any(entry.present.any() for entry in chosen if entry.modality == modality):
            raise DataError(f"{reader}.modalities names {modality}, but no item has a vector of it")
    return chosen
