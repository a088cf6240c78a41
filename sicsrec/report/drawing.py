"""Figures that a phone can show, and as SVG in the page's light or dark colours."""

import re
from collections.abc import Sequence

from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sicsrec.figures import draw

INK, MUTED, RULE = "#1f2328", "#59636e", "#d1d9e0"
SERIES = ("#0969b2", "#b35900", "#0f7b5f", "#a23d77", "#6e49c9", "#7a6a00", "#565d66")
"""Line and marker colours, told apart by people with any colour vision together with
:data:`MARKERS`; each keeps a contrast of 3 to 1 on the light page, its twin on the dark one."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DARK_SERIES = ("#6cb6ff", "#f0a45d", "#4fd1a5", "#f29fc5", "#b8a9ff", "#e3cf5c", "#adb5bd")

WIDTH = 5.0
"""Inches of every figure: one point of it is about one pixel on a phone."""

_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)},
}
_ON_WHITE = "background: white"
"""Of a file that is opened by itself, whatever the colours around it; a page leaves it out."""
_FONT = re.compile(r"(font(?:-family)?: [^;\"]*?)'DejaVu Sans'[^;\"]*")
_ID = re.compile(r'((?:id="|xlink:href="#|href="#|url\(#))([^")]+)')


def new_figure(height: float, n_rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Return an empty figure and its panels, one below the other.

    Args:
        height: inches.
        n_rows: panels.
    """
    # A Figure of its own, not pyplot's, which keeps every figure alive and picks a window system.
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(n_rows, 1, squeeze=False)[:, 0]
    return figure, list(panels)


def finish(axes: Axes, *, grid: str = "y") -> None:
    """Give a panel the look that all share."""
    axes.grid(axis=grid, color=RULE, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=INK, labelsize=9, length=0)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=INK, fontsize=10)
    axes.title.set(color=INK, fontsize=10)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("bottom", "left"))
        spine.set_color(MUTED)


def add_legend(axes: Axes, n_columns: int = 2) -> None:
    """Put a legend above a panel; dollar signs in its words stay what they are."""
    legend = axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.02),
        ncols=n_columns,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        borderaxespad=0.0,
        handletextpad=0.5,
        columnspacing=1.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Write names at the left of a panel of rows, the first one at the top."""
    axes.set_yticks(range(len(names)), names)
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    finish(axes, grid="x")
    axes.spines["left"].set_visible(False)


def draw_svg(figure: Figure, name: str) -> str:
    """Return a figure as the text of an SVG file, on white.

    Args:
        figure: to draw.
        name: makes the ids of its parts the same every time.
    """
    # Text stays text: a reader can search it, and the browser has all characters of all titles.
    parameters = {"svg.fonttype": "none", "svg.hashsalt": name, "svg.id": None}
    svg = draw(figure, "svg", parameters, transparent=True, metadata={"Date": None}).decode()
    return svg.replace("<svg ", f'<svg style="{_ON_WHITE}" ', 1)


def to_element(svg: str, name: str, alt: str) -> Markup:
    """Return a drawn figure as an element of a page that defines the colours.

    Args:
        svg: drawn by :func:`draw_svg` with the colours of this module.
        name: makes the ids of the element's parts its own on the page.
        alt: text for those who do not see it.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = _FONT.sub(r"\1var(--font)", svg)
    svg = _ID.sub(rf"\1{name}-\2", svg)
    head = re.search(r'viewBox="[^"]+"', svg)
    label = f'role="img" aria-label="{escape(alt)}"'
    start = (
        f'<svg {head.group(0) if head else ""} {label} xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return Markup(start + svg[svg.index(">") + 1 :])  # noqa: S704 - made here, texts are escaped
