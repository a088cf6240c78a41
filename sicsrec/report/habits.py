"""What is recommended beside what is watched: popularity, coverage, novelty."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sicsrec.evaluation.beyond_accuracy import (
    N_GROUPS,
    describe_lists,
    group_shares,
    popularity_groups,
)
from sicsrec.evaluation.ranking import RankingSet, recommend
from sicsrec.report.drawing import INK, MARKERS, SERIES, add_legend, finish, new_figure
from sicsrec.report.models import RunModels
from sicsrec.report.parts import DataTable, Plot, Section
from sicsrec.report.run_files import RunFiles

_MOST_USERS = 1000
_K = 10
_HEAD_SHARE = 0.2
_WATCHED, _NEXT = "watched in training", "watched next"


def habits(
    files: RunFiles, models: RunModels, asked: RankingSet, seed: int, *, remove_seen: bool
) -> Section | None:
    """Return how popular, varied and novel the recommendations of every model are.

    None where nothing is recommended, because everybody has watched everything.

    Args:
        files: of the run.
        models: of the run.
        asked: users with what came before their test target.
        seed: picks the users where there are many.
        remove_seen: whether watched items are left out of the recommendations.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(asked))[:_MOST_USERS])
    asked = RankingSet(asked.histories.take(rows), asked.targets[rows])
    counts = files.train_counts
    lists: dict[str, NDArray[np.int32]] = {_WATCHED: files.train.items, _NEXT: asked.targets}
    for name, make in models.scorers().items():
        lists[name] = recommend(make(), asked.histories, _K, remove_seen=remove_seen)[0]
    if not any(items.any() for name, items in lists.items() if name not in (_WATCHED, _NEXT)):
        return None
    figures = {name: describe_lists(items, counts, _HEAD_SHARE) for name, items in lists.items()}
    groups = popularity_groups(counts)
    shares = {name: group_shares(items, groups) for name, items in lists.items()}
    frame = pl.DataFrame(
        [
            {
                "lists": name,
                "coverage": entry.coverage,
                "Gini": entry.gini,
                "novelty, bits": entry.novelty,
                "from the most watched fifth": entry.head_share,
            }
            for name, entry in figures.items()
        ]
    )
    left = "without" if remove_seen else "with"
    return Section(
        "habits",
        "What is recommended, and what is watched",
        words=(
            f"The first {_K} recommendations, {left} watched items, for {len(asked):,} users, made "
            "from what each had watched before the test item. Coverage: share of all items that "
            "are recommended to somebody. Gini: 0 when all items are recommended equally often, "
            "near 1 when always the same. Novelty: how surprising a recommended item is, in bits.",
        ),
        plots=(_plot(shares),),
        tables=(DataTable("habits", "Coverage, evenness, novelty", frame, digits=3),),
        items=_times_recommended(files, lists),
    )


def _times_recommended(files: RunFiles, lists: dict[str, NDArray[np.int32]]) -> pl.DataFrame:
    """Return how often each item is in each model's lists; items in no list are left out."""
    n_items = files.catalog.n_items
    times = {
        name: np.bincount(items.ravel(), minlength=n_items + 1)[1:]
        for name, items in lists.items()
        if name not in (_WATCHED, _NEXT)
    }
    rows = np.flatnonzero(np.stack(list(times.values())).any(axis=0))
    counts = {name: counts[rows] for name, counts in times.items()}
    return files.name_items(rows).with_columns(**counts)


def _plot(shares: dict[str, NDArray[np.float64]]) -> Plot:
    figure, (axes,) = new_figure(3.4)
    places = np.arange(1, N_GROUPS + 1)
    axes.bar(places, shares[_NEXT], color=SERIES[6], alpha=0.45, width=0.8, label=_NEXT)
    drawn = [name for name in shares if name not in (_WATCHED, _NEXT)]
    for number, name in enumerate(drawn):
        axes.plot(places, shares[name], color=SERIES[number], marker=MARKERS[number],
                  markersize=4, label=name)  # fmt: skip
    finish(axes)
    axes.set(xlabel="tenths of the items, most watched first", ylabel="share")
    axes.set_xticks(places)
    axes.yaxis.label.set_color(INK)
    add_legend(axes, 2)
    alt = "Share that falls to the most watched tenth of the items: " + "; ".join(
        f"{name} {share[0]:.0%}" for name, share in shares.items()
    )
    caption = "Bars: what users watched next. Lines: what the models recommend them."
    return Plot("popularity_of_recommendations", figure, alt, caption)
