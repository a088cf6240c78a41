"""The world behind the built-in catalogue: which videos exist, and who watches what when."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from sicsrec.data.demo_words import SERIES_FIRST, SERIES_SECOND, STYLE_WORDS, TOPIC_WORDS

N_TOPICS: Final = len(TOPIC_WORDS)
N_STYLES: Final = len(STYLE_WORDS)

_DAY: Final = 86_400.0
_N_DAYS: Final = 120
_START_SECONDS: Final = 1_735_689_600
_SERIES_SHARE: Final = 0.6
_EPISODES: Final = (4, 12)
_SHARE_AT_START: Final = 0.35
_MEAN_FURTHER_VIDEOS: Final = 5.0
_HISTORY: Final = (4, 30)
_GROWTH: Final = 0.35
"""Exponent below 1: more videos appear towards the end."""
_APPEAL_SPREAD: Final = 1.1
_LOYALTY: Final = (2.5, 3.5)
"""Parameters of the beta distribution of a viewer's loyalty to series."""
_FRESHNESS_DAYS: Final = 10.0
_DRIFT: Final = 0.12
_NEW_TOPIC_RATE: Final = 0.06


@dataclass(frozen=True)
class Videos:
    """The videos of the world, in the order of their release."""

    ids: NDArray[np.int64]
    topics: NDArray[np.int64]
    styles: NDArray[np.int64]
    series: NDArray[np.int64]
    """-1 where a video stands alone."""
    episodes: NDArray[np.int64]
    """From 1 within a series; 0 where a video stands alone."""
    series_names: tuple[str, ...]
    released: NDArray[np.float64]
    """Seconds since the start of the world."""
    appeal: NDArray[np.float64]
    """Logarithm of the quality."""

    def __len__(self) -> int:
        """Return the number of videos."""
        return len(self.ids)


@dataclass(frozen=True)
class Viewing:
    """One video watched by one user."""

    user: int
    video: int
    """Position in :class:`Videos`."""
    seconds: int
    """Since 1970, UTC."""


def draw_videos(random: Generator, n_items: int) -> Videos:
    """Draw the catalogue."""
    series, episodes = _draw_series(random, n_items)
    n_series = int(series.max()) + 1
    topics = random.integers(N_TOPICS, size=n_items)
    styles = random.integers(N_STYLES, size=n_items)
    appeal = random.normal(0.0, _APPEAL_SPREAD, size=n_items)
    released = np.where(
        random.random(n_items) < _SHARE_AT_START,
        0.0,
        random.random(n_items) ** _GROWTH * _N_DAYS * _DAY,
    )
    for number in range(n_series):
        members = np.flatnonzero(series == number)
        topics[members], styles[members] = topics[members[0]], styles[members[0]]
        appeal[members] = 0.6 * appeal[members[0]] + 0.4 * appeal[members]
        released[members] = np.sort(released[members])
    # Whoever comes finds something to watch, in the smallest world too.
    released[released.argmin()] = 0.0
    order = np.argsort(released, kind="stable")
    names = random.permutation(len(SERIES_FIRST) * len(SERIES_SECOND)).tolist()
    return Videos(
        # Numbers that say nothing of the order of release.
        ids=1000 + random.permutation(n_items),
        topics=topics[order],
        styles=styles[order],
        series=series[order],
        episodes=episodes[order],
        series_names=tuple(_series_name(names, number) for number in range(n_series)),
        released=released[order],
        appeal=appeal[order],
    )


def _draw_series(random: Generator, n_items: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    series = np.full(n_items, -1, dtype=np.int64)
    episodes = np.zeros(n_items, dtype=np.int64)
    row = number = 0
    while row < n_items * _SERIES_SHARE:
        n_episodes = min(int(random.integers(*_EPISODES, endpoint=True)), n_items - row)
        series[row : row + n_episodes] = number
        episodes[row : row + n_episodes] = np.arange(1, n_episodes + 1)
        row, number = row + n_episodes, number + 1
    return series, episodes


def _series_name(names: Sequence[int], number: int) -> str:
    """Return the name of a series; when all have been given they come again with a number."""
    n_times, place = divmod(number, len(names))
    first, second = divmod(names[place], len(SERIES_SECOND))
    name = f"{SERIES_FIRST[first]} {SERIES_SECOND[second]}"
    return name if n_times == 0 else f"{name} {n_times + 1}"


def draw_viewings(random: Generator, videos: Videos, n_users: int) -> list[Viewing]:
    """Let every user watch, and return what was watched in the order of time."""
    lengths = _HISTORY[0] + random.geometric(1.0 / (1.0 + _MEAN_FURTHER_VIDEOS), n_users) - 1
    viewings = [
        viewing
        for user, length in enumerate(np.minimum(lengths, _HISTORY[1]).tolist())
        for viewing in _Viewer(random, videos).watch(user, length)
    ]
    return sorted(viewings, key=lambda viewing: (viewing.seconds, viewing.user))


class _Viewer:
    """One user: tastes, loyalty, and what was watched."""

    def __init__(self, random: Generator, videos: Videos) -> None:
        self.random = random
        self.videos = videos
        self.topics = random.dirichlet(np.full(N_TOPICS, 0.25))
        self.styles = random.dirichlet(np.full(N_STYLES, 0.35))
        self.loyalty = random.beta(*_LOYALTY)
        self.is_unseen = np.ones(len(videos), dtype=np.bool_)

    def watch(self, user: int, length: int) -> list[Viewing]:
        """Watch up to ``length`` videos; fewer when nothing is left."""
        arrival = self.random.random() * 0.85 * _N_DAYS * _DAY
        gaps = self.random.exponential(_N_DAYS * _DAY - arrival, length) / length
        viewings: list[Viewing] = []
        last = -1
        for now in np.minimum(arrival + np.cumsum(gaps), 1.2 * _N_DAYS * _DAY).tolist():
            is_there = self.is_unseen & (self.videos.released <= now)
            if not is_there.any():
                break
            last = self._choose(last, is_there, now)
            self.is_unseen[last] = False
            self._drift(last)
            viewings.append(Viewing(user, last, int(_START_SECONDS + now)))
        return viewings

    def _choose(self, last: int, is_there: NDArray[np.bool_], now: float) -> int:
        videos = self.videos
        if last >= 0 and videos.series[last] >= 0 and self.random.random() < self.loyalty:
            later = (videos.series == videos.series[last]) & (
                videos.episodes > videos.episodes[last]
            )
            following = np.flatnonzero(later & is_there)
            if len(following):
                return int(following[np.argmin(videos.episodes[following])])
        age_days = (now - videos.released) / _DAY
        freshness = np.exp(-np.maximum(age_days, 0.0) / _FRESHNESS_DAYS)
        # Few start a series in its middle.
        late_start = 0.3 * np.maximum(videos.episodes - 1, 0)
        liking = (
            np.log(self.topics[videos.topics] + 0.01)
            + np.log(self.styles[videos.styles] + 0.02)
            + videos.appeal
            + 1.5 * freshness
            - late_start
        )
        weights = np.where(is_there, np.exp(liking), 0.0)
        return int(self.random.choice(len(videos), p=weights / weights.sum()))

    def _drift(self, video: int) -> None:
        """Move the tastes towards what was watched and, now and then, towards something new."""
        self.topics *= 1.0 - _DRIFT
        self.topics[self.videos.topics[video]] += _DRIFT
        self.styles *= 1.0 - _DRIFT
        self.styles[self.videos.styles[video]] += _DRIFT
        if self.random.random() < _NEW_TOPIC_RATE:
            self.topics *= 0.5
            self.topics[self.random.integers(N_TOPICS)] += 0.5
