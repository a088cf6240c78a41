"""One cover file to a plain RGB image file, or the reason why not.

Files of covers come from strangers: only raster formats are opened (no EPS, which starts a
program), sizes are checked before anything is decoded, and whatever a decoder raises becomes a
reason.
"""

import hashlib
import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

_PLAIN_FORMATS = frozenset({"JPEG", "PNG", "WEBP"})

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg"),
    "MPO": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
}

IMAGE_SUFFIXES = frozenset(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
"""Suffixes, in lower case, of the files that are taken for covers."""

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")

# Pillow documents OSError, yet its decoders raise all of these on files cut or edited by hand.
_DECODER_ERRORS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)

_ORIENTATION_TAG = 0x0112

_MOST_ELONGATED = 100
"""Long side by short side. Many encoders scale the short side to some hundred pixels before they
crop, and a line of one pixel by a million, a file of kilobytes, would become 150 gigabytes."""

_SMALL_PIXELS = 64 * 64
_LONGEST_JPEG_SIDE = 65_500
_JPEG_QUALITY = 95


class CoverError(Exception):
    """A cover cannot be used; carries a reason word and a detail for the quarantine."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class CoverLimits:
    """What a cover file may be at most."""

    max_bytes: int
    max_pixels: int
    short_side: int
    """Covers with a longer short side, in pixels, are scaled down to it."""


@dataclass(frozen=True)
class StoredCover:
    """A plain RGB image file and what was done to get it."""

    image: bytes
    sha256: str
    changes: tuple[str, ...]
    """Words out of :data:`CHANGES`; empty when the file is kept as it came."""


CHANGES = (
    "wrong_extension",
    "cmyk",
    "sixteen_bit",
    "palette",
    "greyscale",
    "animated",
    "alpha",
    "orientation",
    "other_format",
    "scaled_down",
)
"""What may be said of a kept cover. All but ``wrong_extension`` mean that it was encoded anew."""


@contextmanager
def only_own_limit() -> Iterator[None]:
    """Lift Pillow's own limit of pixels, one of the process; :class:`CoverLimits` has ours."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def open_cover(content: bytes) -> Image.Image:
    """Decode a stored cover to an RGB image.

    Args:
        content: an image file as the covers table holds it.
    """
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        return image.convert("RGB")


def prepare_cover(content: bytes, suffix: str, limits: CoverLimits) -> StoredCover:
    """Decode a cover file once and return it as a plain RGB image file.

    A file that already is one and is not too large keeps its bytes. Animated images give their
    first frame, alpha is laid on white, EXIF orientation is applied, 16-bit values are scaled.

    Args:
        content: the file's bytes.
        suffix: the file's suffix, to tell whether it names the format.
        limits: what is accepted.

    Raises:
        CoverError: when the file is not a usable image.
    """
    if not content:
        raise CoverError("empty_file", "0 bytes")
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return _convert(image, content, suffix, limits)
    except UnidentifiedImageError as err:
        if content.startswith(_MAGIC):
            raise CoverError("undecodable", "the header is damaged") from err
        raise CoverError("not_an_image", f"starts with {content[:8]!r}") from err
    except _DECODER_ERRORS as err:
        raise _cover_error(err) from err


def prepare_image(image: Image.Image, limits: CoverLimits) -> Image.Image:
    """Return an opened image as the RGB image that a cover file of it becomes.

    Args:
        image: the image; it is not changed.
        limits: what is accepted.

    Raises:
        CoverError: when the image is not usable.
    """
    try:
        _check_size(image, limits)
        changes = _find_changes(image, limits)
        # An image made in memory has no format; a file of it is plain if all else is.
        if not changes or (image.format is None and changes == ("other_format",)):
            return image.convert("RGB")
        # Encoded as for storage, so that the pixels are those that a file gives.
        return open_cover(_encode(_to_plain(image, limits)))
    except _DECODER_ERRORS as err:
        raise _cover_error(err) from err


def _cover_error(error: Exception) -> CoverError:
    if isinstance(error, Image.DecompressionBombError):
        return CoverError("too_many_pixels", str(error))
    reason = "truncated" if _is_cut_short(error) else "undecodable"
    return CoverError(reason, f"{type(error).__name__}: {error}")


def _is_cut_short(error: Exception) -> bool:
    words = ("truncated", "not enough data", "unexpected end", "broken data stream")
    return isinstance(error, EOFError) or any(word in str(error).lower() for word in words)


def _check_size(image: Image.Image, limits: CoverLimits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise CoverError(
            "too_many_pixels", f"{width} x {height} pixels, at most {limits.max_pixels} are decoded"
        )
    if max(width, height) > _MOST_ELONGATED * min(width, height):
        raise CoverError(
            "too_elongated",
            f"{width} x {height} pixels, one side is more than {_MOST_ELONGATED} times the other",
        )


def _convert(image: Image.Image, content: bytes, suffix: str, limits: CoverLimits) -> StoredCover:
    _check_size(image, limits)
    width, height = image.size
    changes = _find_changes(image, limits)
    if "scaled_down" in changes:
        # A JPEG decodes straight to a half, a quarter or an eighth of its size, many times faster.
        side = limits.short_side * max(width, height) // min(width, height) + 1
        image.draft(None, (side, side) if width == height else _fit(image.size, limits.short_side))
    image.load()
    said = _SUFFIXES.get(image.format or "", ())
    misnamed = ("wrong_extension",) if suffix.lower() not in said else ()
    if not changes:
        return StoredCover(content, hashlib.sha256(content).hexdigest(), misnamed)
    stored = _encode(_to_plain(image, limits))
    return StoredCover(stored, hashlib.sha256(stored).hexdigest(), misnamed + changes)


def _to_plain(image: Image.Image, limits: CoverLimits) -> Image.Image:
    plain = _to_rgb(ImageOps.exif_transpose(image))
    if min(plain.size) > limits.short_side:
        plain = plain.resize(_fit(plain.size, limits.short_side), Image.Resampling.LANCZOS)
    return plain


def _fit(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    scale = short_side / min(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _find_changes(image: Image.Image, limits: CoverLimits) -> tuple[str, ...]:
    mode = image.mode
    is_deep = mode.startswith(("I", "F")) or any(
        "16" in _mode_in_file(tile[3]) for tile in getattr(image, "tile", ())
    )
    found = {
        "cmyk": mode == "CMYK",
        "sixteen_bit": is_deep,
        "palette": mode in ("P", "PA"),
        "greyscale": mode in ("1", "L", "LA"),
        "animated": bool(getattr(image, "is_animated", False)) and image.format != "MPO",
        "alpha": mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info,
        "orientation": image.getexif().get(_ORIENTATION_TAG, 1) != 1,
        "scaled_down": min(image.size) > limits.short_side,
    }
    changes = tuple(word for word in CHANGES if found.get(word))
    if not changes and (image.mode != "RGB" or image.format not in _PLAIN_FORMATS):
        return ("other_format",)
    return changes


def _mode_in_file(arguments: object) -> str:
    """Return the mode of a tile's pixels as they lie in the file, of what its decoder is given.

    That is the mode alone or first; what may follow, such as the bytes of a row, are numbers.
    """
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _scale_deep(image)
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La")
    if has_alpha or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _scale_deep(image: Image.Image) -> Image.Image:
    """Scale 16-bit values (or floats, by their largest) to 0..255; Pillow alone would clip them."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    top = 1.0 if image.mode == "F" and values.max() <= 1.0 else 255.0
    if values.max() > top:
        top = 65535.0 if values.max() <= 65535.0 else float(values.max())
    grey = np.clip(np.rint(values / top * 255.0), 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    width, height = image.size
    if width * height <= _SMALL_PIXELS or max(width, height) > _LONGEST_JPEG_SIDE:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
