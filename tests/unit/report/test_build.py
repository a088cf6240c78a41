import itertools
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.text import Text

from sicsrec.artifacts import ArtifactStore
from sicsrec.data.sequences import Histories
from sicsrec.errors import DataError
from sicsrec.evaluation.ranking import RankingSet
from sicsrec.report import build, quality
from sicsrec.report.build import MAX_BYTES, build_report
from sicsrec.report.habits import habits
from sicsrec.report.models import RunModels
from sicsrec.report.place import report_key
from sicsrec.report.run_files import RunFiles
from sicsrec.steps.evaluate import SICSREC, WITH_VALID
from tests.unit.report.conftest import SmallRun

ANCHORS = [
    "results", "people", "cohorts", "towers", "habits", "curves", "neighbours", "map", "alignment",
    "pairs", "data", "run",
]  # fmt: skip


class Reader(HTMLParser):
    """Gathers what a page is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(small_run: SmallRun) -> str:
    return small_run.report.path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reader(page: str) -> Reader:
    return Reader(page)


def test_page_has_all_sections_in_order(small_run: SmallRun, reader: Reader) -> None:
    assert [section.anchor for section in small_run.report.sections] == ANCHORS
    assert [entry["id"] for entry in reader.all("h2")] == ANCHORS
    assert len(small_run.report.path.read_bytes()) < MAX_BYTES


def test_titles_are_text_and_nothing_runs(page: str, reader: Reader) -> None:
    assert "&lt;script&gt;document.title" in page
    assert not reader.all("script")
    assert not [
        name for _, attributes in reader.elements for name in attributes if name[:2] == "on"
    ]
    policies = [entry for entry in reader.all("meta") if "http-equiv" in entry]
    assert policies[0]["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_page_asks_for_nothing_outside(reader: Reader) -> None:
    for _, attributes in reader.elements:
        for name in ("src", "href", "xlink:href", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/jpeg;base64,"))
    assert not reader.all("link")


def test_every_picture_has_words_and_ids_are_unique(reader: Reader) -> None:
    images = reader.all("img")
    assert len(images) > 100
    assert all(image["alt"] and image["alt"].startswith("Cover of ") for image in images)
    pictures = reader.all("svg")
    assert len(pictures) >= 10
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in pictures)
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_scrolling_regions_can_be_reached_by_keyboard(reader: Reader) -> None:
    regions = [entry for entry in reader.all("div") if entry.get("class") == "scroll"]
    assert regions
    assert all(entry["tabindex"] == "0" and entry["aria-label"] for entry in regions)


def test_headings_do_not_skip_a_level(reader: Reader) -> None:
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_pictures_follow_the_colours_of_the_page(page: str) -> None:
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert "var(--series-0)" in drawn
    assert "var(--ink)" in drawn
    left = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", drawn))
    assert not left, f"these colours do not change in the dark: {left}"


def test_page_says_what_made_it(small_run: SmallRun, page: str) -> None:
    assert small_run.refs["evaluate/metrics"].digest in page
    assert "c0ffeec0ffee" in page
    assert small_run.refs["train_sicsrec/model"].key in page


def test_best_figure_is_that_of_models_told_equally_much(small_run: SmallRun) -> None:
    files = RunFiles(small_run.store, small_run.refs)
    rows = [row for row in files.report("evaluate")["results"] if row["split"] == "test"]
    for row in rows:
        row["ndcg_at_10"] = 0.9 if row["model"].endswith(WITH_VALID) else 0.1
    told_less = next(row for row in rows if row["model"] == SICSREC)
    told_less["ndcg_at_10"] = 0.2
    plot = quality._plot_results(rows, "ndcg_at_10")
    bold = [
        text.get_text()
        for text in plot.figure.findobj(Text)
        if text.get_fontweight() == "bold" and text.get_text()
    ]
    assert bold == ["0.2000"]


def test_users_are_shown_what_came_before_their_test_target(small_run: SmallRun) -> None:
    people = next(entry for entry in small_run.report.sections if entry.anchor == "people")
    assert len(people.cards) == 20
    for card in people.cards:
        watched, recommended, target = card.strips
        assert not {item.item_id for item in watched.items} & {
            item.item_id for item in recommended.items
        }
        hits = [item for item in recommended.items if item.item_id == target.items[0].item_id]
        assert all(item.note for item in hits)
        assert ("among those shown" in card.note) == bool(hits)


def test_nothing_is_said_of_recommendations_where_everybody_has_watched_everything(
    small_run: SmallRun,
) -> None:
    files = RunFiles(small_run.store, small_run.refs)
    everything = np.arange(1, files.catalog.n_items + 1, dtype=np.int32)
    history = Histories(pl.Series(["u"]), np.array([0, len(everything)]), everything)
    asked = RankingSet(history, everything[:1])
    models = RunModels(files, "cpu")
    assert habits(files, models, asked, 0, remove_seen=True) is None
    assert habits(files, models, asked, 0, remove_seen=False) is not None


def test_page_is_built_once(small_run: SmallRun) -> None:
    before = small_run.report.path.stat().st_mtime_ns
    again = build_report(small_run.refs, small_run.store, small_run.reports)
    assert again.was_reused
    assert again.path == small_run.report.path
    assert again.path.stat().st_mtime_ns == before
    fewer = {name: ref for name, ref in small_run.refs.items() if ref.step != "export"}
    assert report_key(fewer) != again.key


def test_run_that_stopped_early_has_a_page_on_its_data(small_run: SmallRun, tmp_path: Path) -> None:
    early = {n: ref for n, ref in small_run.refs.items() if ref.step in ("ingest", "split")}
    report = build_report(early, small_run.store, tmp_path)
    assert [section.anchor for section in report.sections] == ["data", "run"]


def test_nothing_to_report_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sicsrec run"):
        build_report({}, ArtifactStore(tmp_path), tmp_path)


def test_large_page_is_written_again_with_smaller_covers(
    small_run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = {
        n: ref
        for n, ref in small_run.refs.items()
        if ref.step in ("ingest", "split", "sample_pairs")
    }
    large = build_report(some, small_run.store, tmp_path / "large").path.stat().st_size
    monkeypatch.setattr(build, "MAX_BYTES", large - 1)
    small = build_report(some, small_run.store, tmp_path / "small").path.stat().st_size
    assert small < large


def test_what_was_removed_from_the_store_is_named(small_run: SmallRun, tmp_path: Path) -> None:
    copy = ArtifactStore(tmp_path / "artifacts")
    folder = small_run.store.folder("demo", "ingest", small_run.refs["ingest/catalog"].key)
    shutil.copytree(folder, copy.folder("demo", "ingest", folder.name))
    some = {n: ref for n, ref in small_run.refs.items() if ref.step in ("ingest", "split")}
    with pytest.raises(Exception, match=r"split .* is not in the store"):
        build_report(some, copy, tmp_path / "reports")
