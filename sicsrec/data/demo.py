"""The built-in catalogue: a small world of videos and viewers, written as raw files from a seed.

The world is drawn first and knows nothing of any recommender; titles, covers and watching are then
drawn from it independently. Every video has a topic, a style, a quality, a release time and, for
three in five, a series with an episode number. What carries which signal:

- **Titles** name the topic nearly always, the series for about two thirds of its episodes, the
  style for about a third of the videos. One title in eight is vague and names none of them.
- **Covers** show the style (palette and shapes) nearly always and the series (an emblem) always;
  the topic only tints the background a little, and pixel noise lies over everything.
- **The order of watching** shows what neither says: which episode of a series follows next, how
  loyal a viewer is to a series, that tastes drift (a viewer moves towards what was watched last and
  sometimes takes up a new topic), and which videos are good, so popular, whatever they look like.

Videos appear over time and new ones are watched most, so some held-out targets are rare or new in
training; about them only titles and covers say anything. Choices hold a good deal of chance: no
model can be right about most of them.

Some rows and covers are broken on purpose, in the ways that real data are.
"""

from pathlib import Path

import numpy as np

from sicsrec.data.demo_files import write_covers, write_interactions, write_items
from sicsrec.data.demo_world import draw_videos, draw_viewings


def write_demo(folder: Path, n_items: int, n_users: int, seed: int) -> None:
    """Write ``items.csv``, ``interactions.csv`` and ``covers/``; equal arguments, equal bytes.

    Args:
        folder: existing folder that receives the files.
        n_items: videos in the world; a few rows more are written, which are broken.
        n_users: viewers.
        seed: of everything drawn.
    """
    # Streams of their own: a change of the covers does not change who watches what.
    world, titles, covers, watching, faults = np.random.default_rng(seed).spawn(5)
    videos = draw_videos(world, n_items)
    viewings = draw_viewings(watching, videos, n_users)
    write_items(folder / "items.csv", videos, titles, faults)
    write_interactions(folder / "interactions.csv", videos, viewings, faults)
    write_covers(folder / "covers", videos, covers, faults)
