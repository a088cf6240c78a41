"""Covers as small JPEG data URIs."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

from sicsrec.data.covers import CoverStore


@dataclass(frozen=True)
class Thumbnail:
    """A small cover inside a page."""

    uri: str
    width: int
    """Pixels."""
    height: int


@dataclass(frozen=True)
class ThumbnailSize:
    """How small covers become."""

    height: int
    """Pixels at most."""
    quality: int
    """Of the JPEG, 1 to 95."""


SIZES = (
    ThumbnailSize(120, 72), ThumbnailSize(84, 65), ThumbnailSize(56, 55), ThumbnailSize(40, 45)
)  # fmt: skip
"""From the best to the smallest; a page that is too large is written again with the next."""


class Thumbnails:
    """Makes each thumbnail once.

    Args:
        covers: where the covers lie; None where there are none.
        size: of the thumbnails.
    """

    def __init__(self, covers: CoverStore | None, size: ThumbnailSize) -> None:
        self._covers = covers
        self._size = size
        self._made: dict[str, Thumbnail] = {}

    def of(self, item_id: str) -> Thumbnail | None:
        """Return the thumbnail of an item, None where it has no cover."""
        if self._covers is None or item_id not in self._covers:
            return None
        if item_id not in self._made:
            self._made[item_id] = _shrink(self._covers.read([item_id])[0], self._size)
        return self._made[item_id]


def _shrink(cover: Image.Image, size: ThumbnailSize) -> Thumbnail:
    # At most twice as wide as high, so that a panorama does not become a wall.
    cover.thumbnail((2 * size.height, size.height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    cover.save(buffer, "JPEG", quality=size.quality, optimize=True)
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/jpeg;base64,{content}", *cover.size)
