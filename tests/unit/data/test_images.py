"""Every kind of bad or odd image, made on the spot."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sicsrec.data.images import (
    CHANGES,
    CoverError,
    CoverLimits,
    _encode,
    open_cover,
    prepare_cover,
    prepare_image,
)

LIMITS = CoverLimits(max_bytes=1_000_000, max_pixels=1_000_000, short_side=128)


def encode(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    return Image.fromarray(values)


def refuse(content: bytes, suffix: str = ".jpg") -> CoverError:
    with pytest.raises(CoverError) as caught:
        prepare_cover(content, suffix, LIMITS)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "suffix"), [("JPEG", ".jpeg"), ("PNG", ".PNG"), ("WEBP", ".webp")]
)
def test_plain_rgb_file_keeps_its_bytes(picture, kind, suffix):
    content = encode(picture, kind)
    cover = prepare_cover(content, suffix, LIMITS)
    assert cover.image == content
    assert cover.changes == ()


def test_empty_file():
    assert refuse(b"").reason == "empty_file"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_file_is_refused(picture, kind, share):
    content = encode(picture, kind)
    error = refuse(content[: int(len(content) * share)], f".{kind.lower()}")
    assert error.reason in ("truncated", "undecodable")
    if kind in ("JPEG", "PNG"):
        assert error.reason == "truncated"


@pytest.mark.parametrize("n_bytes", [2, 3, 8, 20, 60])
def test_file_cut_in_its_header_is_refused(picture, n_bytes):
    for kind in ("JPEG", "PNG", "WEBP", "GIF"):
        assert refuse(encode(picture, kind)[:n_bytes]).reason in (
            "truncated",
            "undecodable",
            "not_an_image",
        )


def test_text_named_jpg():
    error = refuse(b"<html>404</html>")
    assert error.reason == "not_an_image"
    assert "<html>" in error.detail


def test_postscript_is_not_opened():
    assert refuse(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n").reason == "not_an_image"


def test_wrong_extension_is_kept_and_said(picture):
    content = encode(picture, "PNG")
    cover = prepare_cover(content, ".jpg", LIMITS)
    assert cover.image == content
    assert cover.changes == ("wrong_extension",)


def test_cmyk_is_converted(picture):
    cover = prepare_cover(encode(picture.convert("CMYK")), ".jpg", LIMITS)
    assert cover.changes == ("cmyk",)
    assert open_cover(cover.image).mode == "RGB"
    with Image.open(io.BytesIO(cover.image)) as stored:
        assert stored.mode == "RGB"


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_is_scaled_not_clipped(kind):
    ramp = np.linspace(0, 65535, 128, dtype=np.uint16)
    image = Image.fromarray(np.tile(ramp, (100, 1)))
    cover = prepare_cover(encode(image, kind), f".{kind.lower()}", LIMITS)
    assert "sixteen_bit" in cover.changes
    values = np.asarray(open_cover(cover.image)).astype(int)
    expected = np.linspace(0, 255, 128)
    assert np.abs(values[50, :, 0] - expected).max() < 6


@pytest.mark.parametrize("width", [100, 720])
def test_a_row_of_2160_bytes_is_not_sixteen_bits(width):
    image = Image.fromarray(np.zeros((100, width, 3), dtype=np.uint8))
    assert prepare_cover(encode(image, "BMP"), ".bmp", LIMITS).changes == ("other_format",)


def test_sixteen_bit_colour_png_becomes_eight_bit():
    rows = b"".join(b"\0" + struct.pack(">HHH", 65535, 32768, 0) * 70 for _ in range(70))

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 70, 70, 16, 2, 0, 0, 0))
    content += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    cover = prepare_cover(content, ".png", LIMITS)
    assert cover.changes == ("sixteen_bit",)
    red, green, blue = open_cover(cover.image).getpixel((30, 30))
    assert (red > 250, abs(green - 128) < 5, blue < 5) == (True, True, True)


def test_float_tiff_is_scaled_by_its_range():
    values = np.tile(np.linspace(0, 1, 100, dtype=np.float32), (100, 1))
    cover = prepare_cover(encode(Image.fromarray(values), "TIFF"), ".tif", LIMITS)
    row = np.asarray(open_cover(cover.image))[50, :, 0]
    assert row[0] < 6
    assert row[-1] > 249


def test_numbers_beyond_sixteen_bits_are_scaled_by_the_largest():
    ramp = np.linspace(0, 2_000_000, 100).astype(np.int32)
    image = Image.fromarray(np.tile(ramp, (100, 1)))
    row = np.asarray(open_cover(prepare_cover(encode(image, "TIFF"), ".tif", LIMITS).image))[50]
    assert np.abs(row[:, 0].astype(int) - np.linspace(0, 255, 100)).max() < 6


def test_palette_is_converted(picture):
    cover = prepare_cover(encode(picture.quantize(16), "PNG"), ".png", LIMITS)
    assert cover.changes == ("palette",)


def test_greyscale_is_converted(picture):
    cover = prepare_cover(encode(picture.convert("L")), ".jpg", LIMITS)
    assert cover.changes == ("greyscale",)
    assert open_cover(cover.image).mode == "RGB"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation_is_kept(kind):
    red, blue = (Image.new("RGB", (100, 90), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encode(red, kind, save_all=True, append_images=[blue, red], **options)
    cover = prepare_cover(content, f".{kind.lower()}", LIMITS)
    assert "animated" in cover.changes
    assert open_cover(cover.image).getpixel((50, 45))[0] > 240
    with Image.open(io.BytesIO(cover.image)) as stored:
        assert getattr(stored, "n_frames", 1) == 1


def test_further_pictures_of_a_camera_are_no_animation(picture):
    content = encode(picture, "MPO", save_all=True, append_images=[picture])
    cover = prepare_cover(content, ".jpg", LIMITS)
    assert cover.changes == ("other_format",)
    with Image.open(io.BytesIO(cover.image)) as stored:
        assert stored.format == "JPEG"


def test_alpha_is_laid_on_white():
    image = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 50, 100))
    cover = prepare_cover(encode(image, "PNG"), ".png", LIMITS)
    assert cover.changes == ("alpha",)
    plain = open_cover(cover.image)
    assert min(plain.getpixel((80, 50))) > 250
    assert plain.getpixel((20, 50))[1] < 10


def test_transparent_palette_is_laid_on_white():
    image = Image.new("P", (100, 100), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    cover = prepare_cover(encode(image, "PNG", transparency=0), ".png", LIMITS)
    assert {"palette", "alpha"} <= set(cover.changes)
    assert min(open_cover(cover.image).getpixel((50, 50))) > 250


def test_orientation_is_applied():
    image = Image.new("RGB", (120, 80), "white")
    image.paste("black", (0, 0, 60, 80))
    exif = Image.Exif()
    exif[0x0112] = 6
    cover = prepare_cover(encode(image, "JPEG", exif=exif), ".jpg", LIMITS)
    assert cover.changes == ("orientation",)
    turned = open_cover(cover.image)
    assert turned.size == (80, 120)
    assert turned.getpixel((40, 10))[0] < 20
    assert turned.getpixel((40, 110))[0] > 235


def test_orientation_is_applied_to_what_has_to_be_converted():
    image = Image.new("RGBA", (120, 80), "white")
    exif = Image.Exif()
    exif[0x0112] = 6
    cover = prepare_cover(encode(image, "PNG", exif=exif), ".png", LIMITS)
    assert cover.changes == ("alpha", "orientation")
    assert open_cover(cover.image).size == (80, 120)


SIZES = {
    (900, 300): (384, 128),
    (1000, 300): (427, 128),
    (256, 512): (128, 256),
    (600, 600): (128, 128),
    (129, 2000): (128, 1984),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(("size", "expected"), SIZES.items())
def test_large_cover_is_scaled_down(kind, size, expected):
    cover = prepare_cover(encode(Image.new("RGB", size, "green"), kind), f".{kind.lower()}", LIMITS)
    assert "scaled_down" in cover.changes
    assert open_cover(cover.image).size == expected


def test_cover_at_its_limits_keeps_its_bytes():
    limits = CoverLimits(max_bytes=1_000_000, max_pixels=128 * 200, short_side=128)
    content = encode(Image.new("RGB", (200, 128), "green"))
    assert prepare_cover(content, ".jpg", limits).image == content


def test_bomb_is_refused_before_decoding():
    # The header says 40,000 x 40,000; there are no pixels to decode.
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header
    content += struct.pack(">I", zlib.crc32(b"IHDR" + header))
    content += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    assert refuse(content, ".png").reason == "too_many_pixels"


def test_image_above_the_configured_pixels_is_refused():
    error = refuse(encode(Image.new("L", (2000, 600)), "PNG"), ".png")
    assert error.reason == "too_many_pixels"
    assert "2000 x 600" in error.detail


def test_tiny_cover_stays_lossless():
    cover = prepare_cover(encode(Image.new("RGBA", (3, 2), (9, 8, 7, 255)), "PNG"), ".png", LIMITS)
    assert open_cover(cover.image).getpixel((1, 1)) == (9, 8, 7)


def test_a_line_is_refused_before_an_encoder_scales_its_short_side_up():
    error = refuse(encode(Image.new("L", (2, 201)), "PNG"), ".png")
    assert error.reason == "too_elongated"
    assert "2 x 201" in error.detail
    with pytest.raises(CoverError, match="too_elongated"):
        prepare_image(Image.new("RGB", (201, 2)), LIMITS)
    kept = prepare_cover(encode(Image.new("L", (200, 2)), "PNG"), ".png", LIMITS)
    assert open_cover(kept.image).size == (200, 2)


def test_a_cover_wider_than_a_jpeg_may_be_can_be_stored():
    assert open_cover(_encode(Image.new("RGB", (70_000, 2)))).size == (70_000, 2)


# The step silences what Pillow warns of while it checks covers; here prepare_cover runs alone.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_flipped_bytes_never_escape_as_another_error(picture):
    random = np.random.default_rng(3)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        content = np.frombuffer(encode(picture, kind), dtype=np.uint8)
        for _ in range(25):
            damaged = content.copy()
            places = random.integers(0, min(len(damaged), 400), 6)
            damaged[places] = random.integers(0, 256, 6)
            try:
                cover = prepare_cover(damaged.tobytes(), f".{kind.lower()}", LIMITS)
            except CoverError:
                continue
            assert open_cover(cover.image).mode == "RGB"


def test_change_words_are_from_the_list(picture):
    cover = prepare_cover(encode(picture.convert("CMYK").resize((600, 600))), ".png", LIMITS)
    assert set(cover.changes) <= set(CHANGES)
    assert set(cover.changes) == {"wrong_extension", "cmyk", "scaled_down"}
