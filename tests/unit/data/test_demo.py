import hashlib
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from sicsrec.config import DemoReaderConfig, IngestConfig
from sicsrec.data.demo import write_demo
from sicsrec.data.demo_files import draw_cover, write_interactions, write_title
from sicsrec.data.demo_words import SERIES_FIRST, SERIES_SECOND, STYLE_WORDS, TOPIC_WORDS
from sicsrec.data.demo_world import Viewing, draw_videos, draw_viewings
from sicsrec.data.readers import read_raw


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    whole = b"".join(path.name.encode() + path.read_bytes() for path in files)
    return hashlib.sha256(whole).hexdigest()


def test_equal_seeds_give_equal_files_in_another_process(tmp_path):
    for name in ("here", "there", "other"):
        (tmp_path / name).mkdir()
    write_demo(tmp_path / "here", 40, 30, 5)
    write_demo(tmp_path / "other", 40, 30, 6)
    code = (
        "import sys; from pathlib import Path; from sicsrec.data.demo import write_demo; "
        "write_demo(Path(sys.argv[1]), 40, 30, 5)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], check=True)
    assert digest(tmp_path / "here") == digest(tmp_path / "there")
    assert digest(tmp_path / "here") != digest(tmp_path / "other")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    started = time.monotonic()
    reader = DemoReaderConfig()
    found = read_raw(IngestConfig(reader=reader), folder)
    assert time.monotonic() - started < 30
    return found


def test_size_and_history_lengths(raw):
    assert raw.items["item_id"].n_unique() == 400
    lengths = raw.interactions.group_by("user_id").len()["len"]
    assert len(lengths) == 2000
    assert 8 < lengths.mean() < 10
    assert lengths.min() >= 4
    assert lengths.max() <= 31


def test_every_kind_of_broken_row_is_there(raw):
    counts = raw.quarantine.counts()
    assert set(counts["interaction"]) == {"bad_timestamp", "empty_id", "wrong_field_count"}
    assert set(counts["item"]) == {"wrong_field_count"}
    assert raw.items["title"].null_count() >= 1
    assert raw.items.height > raw.items["item_id"].n_unique()
    assert set(raw.interactions["item_id"]) - set(raw.items["item_id"]) == {"8888"}


@pytest.mark.parametrize("seed", range(5))
def test_the_smallest_demo_is_written(tmp_path, seed):
    write_demo(tmp_path, n_items=1, n_users=1, seed=seed)
    lines = (tmp_path / "interactions.csv").read_text().splitlines()
    assert sum(line.startswith("u00000,1000,") for line in lines) == 1


def test_a_large_demo_has_a_name_for_every_series_and_an_unknown_item(tmp_path):
    random = np.random.default_rng(0)
    videos = draw_videos(random, 9000)
    n_series = videos.series.max() + 1
    assert n_series > len(SERIES_FIRST) * len(SERIES_SECOND)
    assert len(set(videos.series_names)) == len(videos.series_names) == n_series
    for video in (videos.series.argmax(), 0):
        assert write_title(random, videos, int(video))
    write_interactions(tmp_path / "log.csv", videos, [Viewing(0, 0, 1)], random)
    log = pl.read_csv(tmp_path / "log.csv", truncate_ragged_lines=True)
    assert set(log["item_id"]) - set(videos.ids) == {10_000}


@pytest.fixture(scope="module")
def world():
    random = np.random.default_rng(0)
    videos = draw_videos(random, 400)
    return random, videos, draw_viewings(random, videos, 1000)


def test_nobody_watches_what_is_not_released_or_seen(world):
    _, videos, viewings = world
    start = min(viewing.seconds for viewing in viewings)
    assert len({(viewing.user, viewing.video) for viewing in viewings}) == len(viewings)
    released = videos.released
    origin = 1_735_689_600
    assert start >= origin
    assert all(released[v.video] <= v.seconds - origin + 1 for v in viewings)


def histories(viewings):
    gathered = {}
    for viewing in viewings:
        gathered.setdefault(viewing.user, []).append(viewing.video)
    return gathered


def test_order_carries_series(world):
    """The next episode follows far more often than chance, which no single title or cover tells."""
    _, videos, viewings = world
    steps = [(a, b) for items in histories(viewings).values() for a, b in pairwise(items)]
    following = [
        videos.series[a] >= 0
        and videos.series[a] == videos.series[b]
        and videos.episodes[b] > videos.episodes[a]
        for a, b in steps
    ]
    assert 0.1 < np.mean(following) < 0.5


def test_users_have_tastes_that_popularity_does_not_tell(world):
    _, videos, viewings = world
    for column, n_values in ((videos.topics, len(TOPIC_WORDS)), (videos.styles, len(STYLE_WORDS))):
        overall = np.bincount(column[[v.video for v in viewings]], minlength=n_values)
        chance = np.square(overall / overall.sum()).sum()
        same = [
            column[a] == column[b]
            for items in histories(viewings).values()
            for a, b in zip(items[::2], items[1::2], strict=False)
            if videos.series[a] < 0 or videos.series[a] != videos.series[b]
        ]
        assert np.mean(same) > 1.3 * chance


def test_titles_tell_the_topic_and_rarely_the_style(world):
    random, videos, _ = world
    titles = [write_title(random, videos, video).lower() for video in range(len(videos))]

    def names(words, column):
        return np.mean(
            [
                any(word in title for word in words[v])
                for title, v in zip(titles, column, strict=True)
            ]
        )

    assert names(TOPIC_WORDS, videos.topics) > 0.6
    assert 0.2 < names(STYLE_WORDS, videos.styles) < 0.5
    assert len(set(titles)) > 300


def nearest_mean_accuracy(features, labels, random):
    """Held-out accuracy of the nearest class mean: a model as plain as can be."""
    is_train = random.random(len(labels)) < 0.7
    classes = np.unique(labels[is_train])
    means = np.stack([features[is_train & (labels == label)].mean(0) for label in classes])
    distances = np.square(features[~is_train][:, None] - means[None]).sum(-1)
    return np.mean(classes[distances.argmin(1)] == labels[~is_train])


def test_covers_tell_the_style_and_hardly_the_topic(world):
    random, videos, _ = world
    covers = np.stack(
        [np.asarray(draw_cover(random, videos, v)).mean((0, 1)) for v in range(len(videos))]
    )
    alone = videos.series < 0
    style = nearest_mean_accuracy(covers[alone], videos.styles[alone], random)
    topic = nearest_mean_accuracy(covers[alone], videos.topics[alone], random)
    assert style > 0.6
    assert topic < 0.35
