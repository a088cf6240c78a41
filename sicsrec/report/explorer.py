"""A page on which one points at items: which video a point of the plots is.

Made of the rows that sections keep of their plots (:attr:`sicsrec.report.parts.Section.items`). The
report itself holds no script and can be mailed; this page lies beside it, holds Plotly whole, and
asks no server for anything either.
"""

import html
import textwrap
from collections.abc import Sequence

import plotly.graph_objects as go
import plotly.io
import polars as pl
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from sicsrec.report.content import SPACES
from sicsrec.report.drawing import INK, MUTED, RULE, SERIES
from sicsrec.report.parts import Section
from sicsrec.report.rendering import new_environment

_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
"""As :data:`sicsrec.report.drawing.MARKERS`."""
_OF_ITEM = ("item_id", "title", "watched")
"""Columns that say which item it is; the others are one of each model."""
_CONFIG = {"displaylogo": False, "responsive": True}
_LINE, _MOST_LINES = 46, 3
"""Characters of a line of a title, and how many of its lines are shown."""


def explorer_page(dataset: str, sections: Sequence[Section]) -> bytes | None:
    """Return the page as HTML; None where no section has items to point at.

    Args:
        dataset: named in the title.
        sections: of the report.
    """
    items = {section.anchor: section.items for section in sections if section.items is not None}
    charts = []
    if (on_map := items.get("map")) is not None:
        words = (
            "Every point is an item. Choose a space on the left; point at an item for its title, "
            "click a topic to hide it, twice to see it alone. t-SNE of the most watched items."
        )
        charts.append(("Maps of the items", words, _maps(on_map)))
    if (recommended := items.get("habits")) is not None:
        words = (
            "How often an item was watched in training against how often it is among the first "
            "recommendations of a model. Click a model to hide it, twice to see it alone."
        )
        charts.append(("What is recommended, and what is watched", words, _habits(recommended)))
    if not charts:
        return None
    embedded = [
        (title, words, _embed(figure, number))
        for number, (title, words, figure) in enumerate(charts)
    ]
    page = (
        new_environment()
        .get_template("explorer.html.j2")
        .render(
            title=f"{dataset}: items of a sicsrec run",
            # Plotly's own library, and charts whose texts it has escaped for a script.
            library=Markup(get_plotlyjs()),  # noqa: S704
            charts=embedded,
        )
    )
    return page.encode()


def _maps(items: pl.DataFrame) -> go.Figure:
    spaces = [space for space in SPACES if f"{space} x" in items.columns]
    topics = items["topic"].unique(maintain_order=True).to_list()
    figure = go.Figure()
    for space in spaces:
        for number, topic in enumerate(topics):
            rows = items.filter(pl.col("topic") == topic)
            figure.add_scatter(
                x=rows[f"{space} x"].to_list(),
                y=rows[f"{space} y"].to_list(),
                mode="markers",
                name=_escaped(topic),
                marker=_marker(number),
                text=_labels(rows),
                hovertemplate="%{text}<br>%{fullData.name}<extra></extra>",
                visible=space == spaces[0],
            )
    buttons = [
        {
            "label": SPACES[space],
            "method": "update",
            "args": [{"visible": [shown == space for shown in spaces for _ in topics]}],
        }
        for space in spaces
    ]
    figure.update_layout(
        updatemenus=[
            {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
        ]
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, scaleanchor="x")
    return _styled(figure)


def _habits(items: pl.DataFrame) -> go.Figure:
    figure = go.Figure()
    for number, model in enumerate(name for name in items.columns if name not in _OF_ITEM):
        rows = items.filter(pl.col(model) > 0)
        figure.add_scatter(
            # An item nobody watched has no place on a logarithmic axis but one left of all others.
            x=rows["watched"].cast(pl.Float64).clip(lower_bound=0.5).to_list(),
            y=rows[model].to_list(),
            mode="markers",
            name=_escaped(model),
            marker=_marker(number),
            text=_labels(rows),
            hovertemplate="%{text}<br>recommended %{y} times<extra>%{fullData.name}</extra>",
        )
    grid = {"type": "log", "dtick": "D2", "gridcolor": RULE, "linecolor": MUTED, "ticks": ""}
    figure.update_xaxes(title="times watched in training (0.5: never)", **grid)
    figure.update_yaxes(title="times recommended", **grid)
    return _styled(figure)


def _marker(number: int) -> dict[str, object]:
    return {
        "color": SERIES[number % len(SERIES)],
        "symbol": _SYMBOLS[number % len(_SYMBOLS)],
        "size": 8,
        "opacity": 0.8,
    }


def _labels(rows: pl.DataFrame) -> list[str]:
    """Return what is shown of items; titles come from strangers, and Plotly reads some HTML."""
    labels = []
    for item_id, title, watched in rows.select("item_id", "title", "watched").iter_rows():
        # Cut before it is wrapped: a title without blanks would lose its whole last line.
        is_long = len(title) > _LINE * _MOST_LINES
        shortened = title[: _LINE * _MOST_LINES - 1] + "…" if is_long else title
        lines = textwrap.wrap(shortened, _LINE)[:_MOST_LINES] or [item_id]
        shown = "<br>".join(_escaped(line) for line in lines)
        labels.append(f"<b>{shown}</b><br>{_escaped(item_id)}, watched {watched:,} times")
    return labels


def _escaped(text: str) -> str:
    # Plotly knows no &quot; and shows it as it stands.
    return html.escape(text, quote=False)


def _styled(figure: go.Figure) -> go.Figure:
    figure.update_layout(
        template="none",
        height=640,
        font={"color": INK, "family": "system-ui, sans-serif", "size": 13},
        margin={"l": 60, "r": 16, "t": 90, "b": 100},
        # Where it hangs below the axis, its lines on a narrow screen push the plot up.
        legend={"orientation": "h", "y": -0.2, "yanchor": "top"},
        hoverlabel={"align": "left"},
    )
    return figure


def _embed(figure: go.Figure, number: int) -> Markup:
    part = plotly.io.to_html(
        figure, _CONFIG, include_plotlyjs=False, full_html=False, div_id=f"chart-{number}"
    )
    return Markup(part)  # noqa: S704 - Plotly writes < and > of texts as escapes
