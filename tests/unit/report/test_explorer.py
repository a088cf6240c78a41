"""The page on which one points at items, with titles that try to be markup."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

from sicsrec.report.explorer import explorer_page
from sicsrec.report.parts import Section
from tests.chromium import chromium
from tests.unit.report.conftest import HOSTILE, SmallRun


@pytest.fixture(scope="module")
def explorer(small_run: SmallRun) -> Path:
    path = small_run.report.explorer
    assert path is not None
    return path


def test_sections_keep_what_their_plots_show(small_run: SmallRun) -> None:
    kept = {s.anchor: s.items for s in small_run.report.sections if s.items is not None}
    assert set(kept) == {"map", "habits"}
    catalog = pl.read_parquet(
        small_run.store.open(small_run.refs["ingest/catalog"]).path("items.parquet")
    )
    for items in kept.values():
        joined = items.join(catalog, on="item_id", validate="1:1")
        assert joined.height == items.height > 0
        named = pl.coalesce("title_right", "item_id")
        assert joined.select(pl.col("title") == named).to_series().all()
    topics = kept["map"].join(catalog, on="item_id")
    assert topics["topic"].to_list() == topics["topics"].list.first().to_list()
    models = [
        name for name in kept["habits"].columns if name not in ("item_id", "title", "watched")
    ]
    assert "SICSRec" in models
    assert len({kept["habits"][model].sum() for model in models}) == 1, "lists are equally long"


def test_items_that_nobody_watched_and_long_titles_have_their_place() -> None:
    title = "很" * 200
    items = pl.DataFrame(
        {"item_id": ["a", "b"], "title": [title, " "], "watched": [0, 7], "SICSRec": [3, 4]}
    )
    page = explorer_page("demo", [Section("habits", "Habits", items=items)])
    assert page is not None
    texts = re.search(r'"text":(\[.*?\])', page.decode())
    assert texts is not None
    first, second = json.loads(texts.group(1))
    assert first.startswith("<b>" + "<br>".join(["很" * 46, "很" * 46, "很" * 45 + "…"]) + "</b>")
    assert second.startswith("<b>b</b>"), "a title of blanks says nothing"
    assert '"x":[0.5,7.0]' in page.decode()


@pytest.mark.parametrize("width", [1200, 390])
def test_legend_of_many_models_hides_no_axis(width: int, tmp_path: Path) -> None:
    models = {f"a model of some name {number}": [3, 40] for number in range(6)}
    items = pl.DataFrame(
        {"item_id": ["a", "b"], "title": ["A", "B"], "watched": [1, 900], **models}
    )
    content = explorer_page("demo", [Section("habits", "Habits", items=items)])
    assert content is not None
    path = tmp_path / "explorer.html"
    path.write_bytes(content)
    with chromium(tmp_path / "profile") as page:
        page.look(width)
        page.open(path.as_uri())
        page.wait_for("document.querySelectorAll('.js-plotly-plot .point').length > 11")
        boxes = "[...document.querySelectorAll('{}')].map(e => e.getBoundingClientRect().{})"
        (top,) = page.value(boxes.format(".legend", "top"))
        ends = page.value(boxes.format(".xtick text, .g-xtitle", "bottom"))
        assert len(ends) > 2
        assert top >= max(ends)
        page.save(tmp_path / "explorer.png")


def test_no_page_without_items_to_point_at() -> None:
    assert explorer_page("demo", [Section("results", "Results")]) is None


def test_titles_cannot_leave_their_script(explorer: Path) -> None:
    page = explorer.read_text(encoding="utf-8")
    assert "onerror" in page, "the titles are there"
    assert HOSTILE not in page
    assert not re.search(r"<img[^>]*onerror", page)
    assert "cdn.plot.ly" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


def test_pointing_at_an_item_names_it(explorer: Path, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as page:
        for width in (1200, 390):
            page.look(width)
            page.open(explorer.as_uri())
            page.wait_for("document.querySelectorAll('.js-plotly-plot .point').length > 20")
            assert not page.value(
                "document.documentElement.scrollWidth > document.documentElement.clientWidth"
            )
            for chart in ("chart-0", "chart-1"):
                page.value(f"Plotly.Fx.hover('{chart}', [{{curveNumber: 0, pointNumber: 0}}])")
                shown = f"document.querySelector('#{chart} .hoverlayer').textContent"
                page.wait_for(f"{shown}.includes('watched ')")
                assert "<script>document.title" in page.value(shown)
            page.save(tmp_path / f"explorer_{width}.png")
        switch = "document.querySelector('#chart-0 .updatemenu-header')"
        before = page.value(f"{switch}.textContent")
        page.value("Plotly.relayout('chart-0', {'updatemenus[0].active': 2})")
        page.wait_for(f"{switch}.textContent !== {before!r}")
        assert page.value("document.title") == "demo: items of a sicsrec run"
        assert page.complaints() == []
        assert set(page.requests()) == {explorer.as_uri()}
