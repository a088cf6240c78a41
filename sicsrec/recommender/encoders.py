"""The encoders of a model folder: texts and covers of new items to vectors.

::

    encoders/encoding.json    whether vectors are normalised, and what a cover may be
    encoders/text/            an encoder as sicsrec.encoders.builder writes it
    encoders/image/
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from sicsrec.data.images import (
    CoverError,
    CoverLimits,
    only_own_limit,
    open_cover,
    prepare_cover,
    prepare_image,
)
from sicsrec.data.validation import normalised_text
from sicsrec.data.vectors import MODALITIES
from sicsrec.encoders.base import ItemEncoder, Modality
from sicsrec.encoders.builder import FILE_NAME, load_encoder
from sicsrec.encoders.content import ItemContent
from sicsrec.encoders.encoding import encode_content
from sicsrec.errors import ArtifactError, DataError
from sicsrec.models.new_items import NewItemVectors, ids_of_new_items

ENCODERS_FOLDER = "encoders"
ENCODING_FILE = "encoding.json"
BATCH_ITEMS = 64

Cover = str | Path | bytes | Image.Image
"""The path of a file, the bytes of one, or a decoded image."""


class ItemEncoders:
    """Encodes new items as the pipeline encoded those it was trained on.

    Args:
        folders: modality to the folder of its encoder; read when first used.
        normalise: whether vectors have unit length.
        limits: what a cover may be.
        device: torch device of the encoders.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        *,
        normalise: bool,
        limits: CoverLimits,
        device: str = "cpu",
    ) -> None:
        self._folders: dict[str, Path] = dict(folders)
        self._normalise = normalise
        self._limits = limits
        self._device = device
        self._loaded: dict[str, ItemEncoder] = {}

    @classmethod
    def open(cls, folder: Path, device: str = "cpu") -> "ItemEncoders":
        """Open the encoders of a model folder.

        Args:
            folder: ``encoders`` of a model folder.
            device: torch device of the encoders.

        Raises:
            ArtifactError: if the description is missing or unreadable.
        """
        try:
            content = json.loads((folder / ENCODING_FILE).read_text(encoding="utf-8"))
            limits = CoverLimits(**content["covers"])
            normalise = bool(content["normalise"])
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise ArtifactError(f"{folder} holds no readable {ENCODING_FILE}: {err}") from err
        found = {
            name: folder / name for name in MODALITIES if (folder / name / FILE_NAME).is_file()
        }
        return cls(found, normalise=normalise, limits=limits, device=device)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that can be encoded."""
        return tuple(self._folders)

    def encode(
        self,
        item_ids: Sequence[str | int],
        texts: Sequence[str | None] | None = None,
        covers: Sequence[Cover | None] | None = None,
    ) -> NewItemVectors:
        """Encode new items.

        Args:
            item_ids: [M]; names for the items.
            texts: [M]; what the configured text fields would hold; None where there is none.
            covers: [M]; None where there is none.

        Raises:
            DataError: if lengths differ, ids repeat, an item has neither, a text is no string,
                a cover cannot be used, or there is no encoder of a modality that was given.
        """
        ids = ids_of_new_items(item_ids)
        given: dict[str, Sequence[Any]] = {}
        both: tuple[tuple[Modality, Sequence[Any] | None], ...] = (
            ("text", texts),
            ("image", covers),
        )
        for modality, values in both:
            if isinstance(values, str | bytes):
                raise DataError(f"{modality} of new items must be a list, one entry per item")
            if values is None or all(_is_nothing(value) for value in values):
                continue
            if len(values) != len(ids):
                raise DataError(f"{len(ids)} new items but {len(values)} of {modality}")
            if modality not in self._folders:
                raise DataError(
                    f"the model folder holds no {modality} encoder; it has "
                    f"{', '.join(self._folders) or 'none'}"
                )
            given[modality] = values
        present = {
            name: np.array([not _is_nothing(value) for value in values])
            for name, values in given.items()
        }
        if not np.any([*present.values(), np.zeros(len(ids), dtype=np.bool_)], axis=0).all():
            raise DataError("every new item needs a text or a cover")
        matrices = {
            name: self._encode(name, ids, values, present[name]) for name, values in given.items()
        }
        return NewItemVectors(ids, matrices, present)

    def _encode(
        self,
        modality: str,
        ids: tuple[str, ...],
        values: Sequence[Any],
        present: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        if modality not in self._loaded:
            self._loaded[modality] = load_encoder(self._folders[modality], self._device)
        encoder = self._loaded[modality]
        prepare: Callable[[Any, str], Any] = self._open if modality == "image" else _plain
        prepared = [
            prepare(value, item_id) if there else None
            for value, item_id, there in zip(values, ids, present, strict=True)
        ]
        indices, vectors = encode_content(
            encoder,
            _NewContent(encoder.modality, prepared),
            batch_size=BATCH_ITEMS,
            normalise=self._normalise,
        )
        matrix = np.zeros((len(ids), encoder.dim), dtype=np.float32)
        matrix[indices - 1] = vectors
        return matrix

    def _open(self, cover: Cover, item_id: str) -> Image.Image:
        """Decode a cover as ingest does.

        Raises:
            DataError: if it cannot be used.
        """
        if isinstance(cover, str):
            cover = Path(cover)
        if not isinstance(cover, Path | bytes | Image.Image):
            raise DataError(
                f"the cover of {item_id!r} must be a path, bytes or an image, got "
                f"{type(cover).__name__}"
            )
        try:
            with only_own_limit():
                if isinstance(cover, Image.Image):
                    return prepare_image(cover, self._limits)
                if isinstance(cover, Path) and cover.stat().st_size > self._limits.max_bytes:
                    raise DataError(
                        f"the cover of {item_id!r}, {cover}, has more than the "
                        f"{self._limits.max_bytes} bytes that ingest.max_cover_bytes allows"
                    )
                content = cover.read_bytes() if isinstance(cover, Path) else cover
                suffix = cover.suffix if isinstance(cover, Path) else ""
                return open_cover(prepare_cover(content, suffix, self._limits).image)
        except (OSError, CoverError) as err:
            raise DataError(f"the cover of {item_id!r} cannot be used: {err}") from err


class _NewContent(ItemContent):
    """Texts or covers of items that are numbered 1..M for the time of encoding."""

    def __init__(self, modality: Modality, values: Sequence[Any]) -> None:
        self.modality = modality
        self._values = values
        rows = [row for row, value in enumerate(values) if value is not None]
        self.indices = np.array(rows, dtype=np.int32) + 1

    def get(self, indices: NDArray[np.integer]) -> list[Any]:
        """See :meth:`ItemContent.get`."""
        return [self._values[int(index) - 1] for index in indices]

    def groups(self) -> NDArray[np.int64]:
        """See :meth:`ItemContent.groups`; no two new items are taken for the same."""
        return self.indices.astype(np.int64)


def _plain(text: object, item_id: str) -> str:
    """Return a text as ingest keeps it.

    Raises:
        DataError: if it is no string.
    """
    if not isinstance(text, str):
        raise DataError(f"the text of {item_id!r} must be a string, got {type(text).__name__}")
    return pl.select(normalised_text(pl.lit(text))).item() or ""


def _is_nothing(value: object) -> bool:
    # NaN is how pandas writes that there is nothing.
    if isinstance(value, float | np.floating):
        return bool(np.isnan(value))
    return value is None or (isinstance(value, str) and not value.strip())
