import io

import numpy as np
import pytest
from PIL import Image

from sicsrec.sampling import plots
from sicsrec.sampling.plots import ShownItem, ShownPair, plot_answers, plot_pair_sheet

TEAL = (0, 128, 128)
TITLES = [
    "plain",
    "宫保鸡丁的家常做法，十分钟学会，全家都爱吃的一道下饭菜" * 3,
    "$x$ and $100 \\frac{ \U0001f600 \u0e01 {braces}",
    "averyveryverylongwordwithoutanyspacesthatgoesonandonandonandonandon",
    "",
    None,
]


def shown(title, size=None):
    return ShownItem(title, Image.new("RGB", size, TEAL) if size else None)


@pytest.mark.parametrize("n_pairs", [1, 4, 20])
def test_any_title_and_any_cover_can_be_drawn(n_pairs):
    sizes = [(30, 90), None, (200, 10), (1, 1)]
    pairs = [
        ShownPair(
            shown(TITLES[row % 6], sizes[row % 4]),
            shown(TITLES[(row + 1) % 6], sizes[(row + 1) % 4]),
            tuple(title for title in TITLES[: row % 5] if title),
        )
        for row in range(n_pairs)
    ]
    figure = plot_pair_sheet(pairs)
    figure.savefig(io.BytesIO())
    [axes] = figure.axes
    [covers] = axes.images
    # The words stand where they were put: their places are pixels of the picture of covers.
    width, height = figure.bbox.size
    assert tuple(covers.get_extent()) == (-0.5, width - 0.5, height - 0.5, -0.5)
    words = [text.get_text() for text in axes.texts]
    assert words.count("anchor") == words.count("similar") == n_pairs
    is_drawn = bool((np.asarray(covers.get_array()) == TEAL).all(axis=2).any())
    assert words.count("no cover") == sum(
        item.cover is None for pair in pairs for item in (pair.anchor, pair.positive)
    )
    assert is_drawn == any(pair.anchor.cover or pair.positive.cover for pair in pairs)
    # Nothing hangs over the edge.
    for text in axes.texts:
        extent = text.get_window_extent()
        assert extent.y0 >= figure.bbox.y0
        assert extent.y1 <= figure.bbox.y1


def test_words_stand_clear_of_each_other():
    long = ShownItem("one two three four five six seven eight nine ten eleven", None)
    figure = plot_pair_sheet([ShownPair(long, long, ("first", "second", "third"))] * 8)
    figure.savefig(io.BytesIO())
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    overlapping = [
        (first, second)
        for number, first in enumerate(boxes)
        for second in boxes[number + 1 :]
        if first.overlaps(second)
    ]
    assert not overlapping


def test_titles_break_where_they_may():
    assert plots._wrap("one two three", 8, 2) == "one two\nthree"
    assert plots._wrap("一二三四五六", 6, 3) == "一二三\n四五六"
    assert plots._wrap("一二三四五六七", 6, 2) == "一二三\n四五六…"
    assert plots._wrap("", 6, 2) == ""


def test_characters_that_no_font_has_are_boxes(monkeypatch):
    monkeypatch.setattr(plots, "_fonts", lambda: ("DejaVu Sans",))
    assert plots._drawable("a 宫\nb") == f"a {plots._NO_GLYPH}\nb"


def test_answers_are_drawn_by_outcome():
    figure = plot_answers({"pair": 5, "names_anchor": 0}, np.array([0, 0, 1, 3, 40]))
    figure.savefig(io.BytesIO())
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == [5, 0]
    assert [bar.get_height() for bar in right.patches] == [2, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1]


def test_no_pairs_at_all_can_be_drawn():
    plot_answers({"pair": 0}, np.zeros(3, dtype=np.int64)).savefig(io.BytesIO())
