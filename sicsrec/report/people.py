"""Some users: what they watched, what is recommended to them, what they watched next."""

import numpy as np
import polars as pl

from sicsrec.evaluation.ranking import RankingSet, Scorer, rank_targets, recommend
from sicsrec.report.parts import Card, Section, ShownItem, Strip
from sicsrec.report.run_files import RunFiles

N_USERS = 20
_N_ITEMS = 6


def people(
    files: RunFiles,
    scorer: Scorer,
    asked: RankingSet,
    *,
    seed: int,
    remove_seen: bool,
) -> Section:
    """Return cards of users drawn at random.

    Args:
        files: of the run.
        scorer: recommends.
        asked: users with what came before their test target.
        seed: of the draw.
        remove_seen: whether watched items are left out of recommendations and ranks.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(asked))[:N_USERS])
    some = RankingSet(asked.histories.take(rows), asked.targets[rows])
    best = recommend(scorer, some.histories, _N_ITEMS, remove_seen=remove_seen)[0]
    ranks = rank_targets(scorer, some.histories, some.targets, remove_seen=remove_seen)
    cards = []
    for row, user_id in enumerate(some.histories.user_ids):
        history = some.histories.of_user(row)
        target = int(some.targets[row])
        target_id = files.catalog.ids_of(some.targets[row : row + 1])[0]
        recent = files.catalog.ids_of(history[-_N_ITEMS:])
        named = files.catalog.ids_of(best[row][best[row] > 0])
        hit = "it" if target in best[row] else ""
        cards.append(
            Card(
                f"User {user_id}",
                (
                    Strip(f"watched, last {len(recent)} of {len(history)}", _show(files, recent)),
                    Strip(
                        "recommended",
                        tuple(
                            files.show(item, note="watched next" if item == target_id else "")
                            for item in named
                        ),
                    ),
                    Strip("watched next", (files.show(target_id),), "target"),
                ),
                note=f"what was watched next has rank {ranks[row]:,} of "
                f"{files.catalog.n_items:,}" + (", and is among those shown" if hit else ""),
            )
        )
    return Section(
        "people",
        f"{len(cards)} users",
        words=(
            "Drawn at random, not picked. Recommendations are made from what each user had watched "
            "before the test item, by the models that validation chose, which were trained without "
            "it.",
        ),
        cards=tuple(cards),
    )


def _show(files: RunFiles, item_ids: pl.Series) -> tuple[ShownItem, ...]:
    return tuple(files.show(item_id) for item_id in item_ids)
