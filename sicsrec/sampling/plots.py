"""Pictures of sampled pairs: a sheet of examples to look at, and how the answers came out."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sicsrec.figures import BLUE, ORANGE

_GREY = "#999999"
_BACKGROUND = "#eeeeee"
_DPI = 80
_PAIRS_PER_ROW = 4
_CELL_WIDTH, _CELL_HEIGHT = 344, 262
"""Pixels of a pair with its words."""
_COVER_PIXELS = 160
_MARGIN, _HEAD = 6, 18
"""Pixels left of a pair, and above its covers."""
_BORDER = 2
_LINE_WIDTH = 26
"""Columns of a line of a title; Chinese characters take two."""
_MOST_LINES = 2
_CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei",
    "Droid Sans Fallback", "Arial Unicode MS",
)  # fmt: skip
_NO_GLYPH = "\N{WHITE SQUARE}"


@dataclass(frozen=True)
class ShownItem:
    """An item in a picture."""

    title: str | None
    cover: Image.Image | None


@dataclass(frozen=True)
class ShownPair:
    """An anchor beside the item that the judge calls similar."""

    anchor: ShownItem
    positive: ShownItem
    negative_titles: tuple[str, ...] = ()
    """Titles of what the judge calls unrelated to the anchor."""


def plot_pair_sheet(pairs: Sequence[ShownPair]) -> Figure:
    """Draw pairs with titles and covers, four to a row; unrelated titles stand below in grey.

    Args:
        pairs: at least one.
    """
    size = (_PAIRS_PER_ROW * _CELL_WIDTH, -(-len(pairs) // _PAIRS_PER_ROW) * _CELL_HEIGHT)
    figure = Figure(figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI)
    # All covers are one picture in one panel: a panel for each takes three times as long to draw.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    covers = Image.new("RGB", size, "white")
    for number, pair in enumerate(pairs):
        row, column = divmod(number, _PAIRS_PER_ROW)
        left, top = column * _CELL_WIDTH + _MARGIN, row * _CELL_HEIGHT + _HEAD
        _draw_item(axes, covers, (left, top), pair.anchor, BLUE, "anchor")
        right = left + _COVER_PIXELS + _MARGIN
        _draw_item(axes, covers, (right, top), pair.positive, ORANGE, "similar")
        negatives = [f"not: {_wrap(title, 2 * _LINE_WIDTH, 1)}" for title in pair.negative_titles]
        _write(axes, "\n".join(negatives[:3]), (left, top + _COVER_PIXELS + 34), _GREY, 7.0)
    axes.imshow(covers)
    return figure


def plot_answers(outcomes: Mapping[str, int], times_positive: NDArray[np.integer]) -> Figure:
    """Draw how many answers came out in each way, and how often items were called similar.

    Args:
        outcomes: count by word.
        times_positive: [N] how often each item is a positive, zeros included.
    """
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [name.replace("_", " ") for name in outcomes]
    bars = left.barh(names, list(outcomes.values()), color=BLUE)
    left.bar_label(bars, padding=3, fontsize=8)
    left.invert_yaxis()
    left.set(title="answers")
    left.margins(x=0.15)
    counts = np.bincount(np.minimum(times_positive, 10), minlength=11)
    right.bar([*map(str, range(10)), "10+"], counts, color=ORANGE)
    right.set(title="items by the times they are a positive", xlabel="times", ylabel="items")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_item(
    axes: Axes,
    covers: Image.Image,
    place: tuple[int, int],
    item: ShownItem,
    color: str,
    role: str,
) -> None:
    """Paste a cover with its border at the place of its left upper corner, and write its words."""
    left, top = place
    side = _COVER_PIXELS - 2 * _BORDER
    if item.cover is None:
        shown = Image.new("RGB", (side, side), _BACKGROUND)
        middle = (left + _COVER_PIXELS // 2, top + _COVER_PIXELS // 2)
        _write(axes, "no cover", middle, _GREY, 8.0, "center")
    else:
        shown = ImageOps.pad(item.cover.convert("RGB"), (side, side), color=_BACKGROUND)
    covers.paste(ImageOps.expand(shown, _BORDER, color), place)
    _write(axes, role, (left, top - 3), color, 7.0, bottom=True)
    title = _wrap(item.title or "(no title)", _LINE_WIDTH, _MOST_LINES)
    _write(axes, title, (left, top + _COVER_PIXELS + 4))


def _write(
    axes: Axes,
    text: str,
    place: tuple[int, int],
    color: str = "black",
    size: float = 8.0,
    align: str = "left",
    *,
    bottom: bool = False,
) -> None:
    drawn = axes.text(
        *place, _drawable(text), color=color, fontsize=size,
        horizontalalignment=align, verticalalignment="bottom" if bottom else "top",
        fontfamily=list(_fonts()),
    )  # fmt: skip
    # A title may hold dollar signs, between which matplotlib would read mathematics.
    drawn.set_parse_math(False)


def _wrap(text: str, width: int, most_lines: int) -> str:
    r"""Break a title into lines of a width in columns, cut after some lines.

    Example:
        >>> _wrap("one two three", 8, 2)
        'one two\nthree'
    """
    lines, line, used = [], "", 0
    for word in _words(text):
        columns = sum(_columns(letter) for letter in word)
        if line and used + columns > width:
            lines.append(line.strip())
            line, used = "", 0
        line, used = line + word, used + columns
    lines.append(line.strip())
    if len(lines) > most_lines:
        lines = [*lines[: most_lines - 1], f"{lines[most_lines - 1]}…"]
    return "\n".join(lines)


def _words(text: str) -> list[str]:
    """Split where a line may break: after spaces and after every wide character."""
    words = [""]
    for letter in " ".join(text.split()):
        words[-1] += letter
        if letter == " " or _columns(letter) == 2 or len(words[-1]) >= _LINE_WIDTH:
            words.append("")
    return [word for word in words if word]


def _columns(letter: str) -> int:
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


@lru_cache(maxsize=1)
def _fonts() -> tuple[str, ...]:
    """Return matplotlib's own font and the first installed one with Chinese characters."""
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    chinese = [name for name in _CJK_FONTS if name in installed]
    return ("DejaVu Sans", *chinese[:1])


def _drawable(text: str) -> str:
    """Replace characters that no installed font has, of which matplotlib would warn."""
    fonts = [font_manager.get_font(font_manager.findfont(name)) for name in _fonts()]
    return "".join(
        letter
        if letter == "\n" or any(font.get_char_index(ord(letter)) for font in fonts)
        else _NO_GLYPH
        for letter in text
    )
