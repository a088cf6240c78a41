"""Raw files of the built-in catalogue: titles, covers and viewings, some broken on purpose."""

import colorsys
import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from sicsrec.data.demo_words import STYLE_WORDS, TOPIC_TEMPLATES, TOPIC_WORDS, VAGUE_TITLES
from sicsrec.data.demo_world import Videos, Viewing

_SIZE = (96, 64)
_VAGUE_RATE = 0.125
_TOPIC_RATE = 0.9
_SERIES_RATE = 0.65
_STYLE_RATE = 0.35
_EPISODE_RATE = 0.4
_NOISE = 14.0

Colour = tuple[int, int, int]


def write_items(path: Path, videos: Videos, random: Generator, faults: Generator) -> None:
    """Write the item file; about one row in a hundred is a double, cut short or without title."""
    rows = [
        [str(videos.ids[video]), write_title(random, videos, video), "en"]
        for video in range(len(videos))
    ]
    rows = [rows[place] for place in random.permutation(len(rows))]
    n_faults = max(1, len(rows) // 150)
    for place in faults.choice(len(rows), n_faults, replace=False):
        rows[place][1] = ""
    for place in faults.choice(len(rows), n_faults, replace=False):
        rows.append(list(rows[place]))
    item_id, title, language = rows[faults.integers(len(rows))]
    rows.append([item_id, f"{title} (reupload)", language])
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["item_id", "title", "language"])
        writer.writerows(rows)
        stream.write("9999\n")


def write_title(random: Generator, videos: Videos, video: int) -> str:
    """Compose the title of one video."""
    if random.random() < _VAGUE_RATE:
        return VAGUE_TITLES[random.integers(len(VAGUE_TITLES))]
    parts = []
    series = int(videos.series[video])
    if series >= 0 and random.random() < _SERIES_RATE:
        name = videos.series_names[series]
        is_numbered = random.random() < _EPISODE_RATE
        parts.append(f"{name} #{videos.episodes[video]}" if is_numbered else name)
    if not parts or random.random() < _TOPIC_RATE:
        words = TOPIC_WORDS[videos.topics[video]]
        topic, other = (words[place] for place in random.permutation(len(words))[:2])
        template = TOPIC_TEMPLATES[random.integers(len(TOPIC_TEMPLATES))]
        parts.append(template.format(topic=topic, other=other))
    if random.random() < _STYLE_RATE:
        words = STYLE_WORDS[videos.styles[video]]
        parts.append(words[random.integers(len(words))])
    title = (" | ", ": ", ", ")[random.integers(3)].join(parts)
    return title[0].upper() + title[1:]


def write_interactions(
    path: Path, videos: Videos, viewings: Sequence[Viewing], faults: Generator
) -> None:
    """Write the viewings in the order of time; about one row in 250 is broken."""
    rows = [
        [f"u{viewing.user:05d}", str(videos.ids[viewing.video]), str(viewing.seconds)]
        for viewing in viewings
    ]
    n_faults = max(1, len(rows) // 1000)
    unknown = str(max(8888, int(videos.ids.max()) + 1))
    broken = [["u00000", unknown, str(viewings[-1].seconds)]] * n_faults
    broken += [["u00001", rows[0][1], word] for word in ["yesterday", ""] * n_faults]
    broken += [["", rows[0][1], rows[0][2]], ["u00002", rows[0][1]]]
    for row in broken:
        rows.insert(int(faults.integers(len(rows))), row)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["user_id", "item_id", "timestamp"])
        writer.writerows(rows)


def write_covers(folder: Path, videos: Videos, random: Generator, faults: Generator) -> None:
    """Write a cover per video; about one in forty is missing, broken or oddly encoded."""
    folder.mkdir()
    n_faults = max(1, len(videos) // 250)
    kinds = ["missing", "truncated", "no_bytes", "text", "cmyk", "png"] * n_faults
    odd = dict(zip(faults.permutation(len(videos)).tolist(), kinds, strict=False))
    for video in range(len(videos)):
        image = draw_cover(random, videos, video)
        content = _encode(image, odd.get(video, ""))
        if content is not None:
            (folder / f"{videos.ids[video]}.jpg").write_bytes(content)


def _encode(image: Image.Image, kind: str) -> bytes | None:
    if kind == "missing":
        return None
    if kind == "no_bytes":
        return b""
    if kind == "text":
        return b"<html><body>404 Not Found</body></html>\n"
    buffer = io.BytesIO()
    if kind == "png":
        image.save(buffer, "PNG")
    else:
        (image.convert("CMYK") if kind == "cmyk" else image).save(buffer, "JPEG", quality=85)
    content = buffer.getvalue()
    return content[: len(content) // 2] if kind == "truncated" else content


def draw_cover(random: Generator, videos: Videos, video: int) -> Image.Image:
    """Draw the cover of one video: palette and shapes by style, emblem by series, noise."""
    style, topic, series = (
        int(column[video]) for column in (videos.styles, videos.topics, videos.series)
    )
    hue = style / len(STYLE_WORDS) + random.normal(0.0, 0.03)
    tint = topic / len(TOPIC_WORDS)
    image = _gradient(_colour(hue, 0.55, 0.85), _mix(_colour(hue, 0.7, 0.35), _colour(tint), 0.25))
    draw = ImageDraw.Draw(image)
    ink = _colour(hue + 0.5, 0.4, 0.95)
    for _ in range(int(random.integers(3, 7))):
        _draw_shape(draw, random, style, ink)
    if series >= 0:
        _draw_emblem(draw, series)
    pixels = np.asarray(image, dtype=np.float32)
    noisy = pixels + random.normal(0.0, _NOISE, pixels.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _colour(hue: float, saturation: float = 0.6, value: float = 0.8) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (
        round((1 - share) * a + share * b) for a, b in zip(first, second, strict=True)
    )
    return red, green, blue


def _gradient(top: Colour, bottom: Colour) -> Image.Image:
    share = np.linspace(0.0, 1.0, _SIZE[1])[:, None, None]
    rows = (1 - share) * np.array(top) + share * np.array(bottom)
    return Image.fromarray(np.broadcast_to(rows, (_SIZE[1], _SIZE[0], 3)).astype(np.uint8))


def _draw_shape(draw: ImageDraw.ImageDraw, random: Generator, style: int, ink: Colour) -> None:
    x, y = (int(random.integers(side)) for side in _SIZE)
    size = int(random.integers(8, 22))
    box = (x - size, y - size, x + size, y + size)
    if style == 0:
        draw.rectangle(box, outline=ink, width=2)
    elif style == 1:
        draw.ellipse(box, outline=ink, width=2)
    elif style == 2:
        draw.line((x - size, y - size, x + size, y + size), fill=ink, width=3)
        draw.line((x - size, y + size, x + size, y - size), fill=ink, width=3)
    elif style == 3:
        draw.polygon(((x, y - size), (x - size, y + size), (x + size, y + size)), outline=ink)
    elif style == 4:
        draw.line((0, y, _SIZE[0], y - size), fill=ink, width=4)
    else:
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=ink)


def _draw_emblem(draw: ImageDraw.ImageDraw, series: int) -> None:
    """Draw a badge whose colours and corners are those of one series."""
    # Multiples of the golden ratio spread over the circle of hues without coming together.
    hue = series * 0.618034
    n_corners = 3 + series % 5
    x, y, radius = 16 + 16 * (series % 3), 44 - 12 * (series % 2), 11
    draw.ellipse((x - 13, y - 13, x + 13, y + 13), fill=_colour(hue + 0.4, 0.3, 1.0))
    badge = _colour(hue, 1.0, 0.7)
    draw.regular_polygon((x, y, radius), n_corners, rotation=series * 17, fill=badge)
