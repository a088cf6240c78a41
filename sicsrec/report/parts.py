"""What a report is made of."""

from dataclasses import dataclass, field
from functools import cached_property

import polars as pl
from matplotlib.figure import Figure

from sicsrec.report.drawing import draw_svg


@dataclass(frozen=True)
class Plot:
    """A picture with its words."""

    name: str
    """Under which a tracker keeps it."""
    figure: Figure
    alt: str
    """What it shows, for those who do not see it: the numbers that matter."""
    caption: str

    @cached_property
    def svg(self) -> str:
        """The figure as an SVG file, drawn once for the page and for whoever keeps it."""
        return draw_svg(self.figure, self.name)


@dataclass(frozen=True)
class DataTable:
    """A table with its words; the first column names the row."""

    name: str
    """Under which a tracker keeps it."""
    caption: str
    frame: pl.DataFrame
    is_open: bool = True
    """Whether it is shown at once or folded away."""
    digits: int = 4
    """Decimals of its numbers."""


@dataclass(frozen=True)
class ShownItem:
    """An item as a reader sees it."""

    item_id: str
    """Finds its cover when the page is written."""
    title: str
    note: str = ""


@dataclass(frozen=True)
class Strip:
    """Items side by side under a few words."""

    label: str
    items: tuple[ShownItem, ...]
    kind: str = ""
    """``target``, ``anchor`` or nothing; marks the strip."""


@dataclass(frozen=True)
class Card:
    """Strips that belong together, e.g. all that is shown of one user."""

    title: str
    strips: tuple[Strip, ...]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One section of the page."""

    anchor: str
    title: str
    words: tuple[str, ...] = ()
    """Paragraphs."""
    plots: tuple[Plot, ...] = ()
    tables: tuple[DataTable, ...] = ()
    cards: tuple[Card, ...] = field(default=())
    items: pl.DataFrame | None = None
    """What its plots show of every item, for those who want to point at one: ``item_id``,
    ``title`` and more; see :mod:`sicsrec.report.explorer`."""
