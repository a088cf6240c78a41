"""What the figures of an evaluation are called wherever they are recorded.

``<part>/<metric>`` is the model itself, ``<part>/<model>/<metric>`` another one,
``<part>/<group>/<metric>`` the model for one group of users: ``test/ndcg_at_10``,
``test/id_encoder/ndcg_at_10``, ``test/cold_targets/hr_at_10``. Runs that are compared have the same
columns.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

MAIN = "SICSRec"
"""The model that needs no name."""
MAIN_BLENDED = "SICSRec, blended"

GROUP_NAMES = {
    "warm_target": "warm_targets",
    "cold_target": "cold_targets",
    "head_target": "head_targets",
    "tail_target": "tail_targets",
    "short_history": "short_histories",
    "long_history": "long_histories",
}
"""Cohort to what it is called in the plural."""

Row = Mapping[str, Any]


def slug(model: str) -> str:
    """Return a model's name as a part of a metric's name.

    Example:
        >>> slug("transitions (train + valid)")
        'transitions_train_valid'
    """
    return re.sub(r"[^a-z0-9]+", "_", model.lower()).strip("_")


def title_of(metric: str) -> str:
    """Return a metric's name as tables for people show it.

    Example:
        >>> title_of("ndcg_at_10")
        'NDCG@10'
    """
    return metric.replace("_at_", "@").upper()


def metrics_of(row: Row) -> list[str]:
    """Return the metrics that a row of results has, in its order.

    Example:
        >>> metrics_of({"model": "SICSRec", "users": 3, "hr_at_20": 0.5, "hr_at_20_low": 0.4})
        ['hr_at_20']
    """
    return [name for name in row if re.fullmatch(r"(hr|ndcg)_at_\d+|mrr", name)]


def tracked_metrics(results: Sequence[Row], cohorts: Sequence[Row] = ()) -> dict[str, float]:
    """Name the figures of the tables of an evaluation, those of :data:`MAIN` on the test first.

    Args:
        results: rows as :func:`sicsrec.evaluation.comparison.result_rows` returns them. The ends
            of intervals are kept for :data:`MAIN` alone.
        cohorts: rows as :func:`sicsrec.evaluation.comparison.cohort_rows` returns them, of which
            the test part of :data:`MAIN` is kept.

    Example:
        >>> tracked_metrics([{"model": "SICSRec", "split": "test", "users": 3, "hr_at_10": 0.5}])
        {'test/hr_at_10': 0.5}
    """
    named: dict[str, float] = {}
    # MLflow shows them in this order, and charts the first where runs are compared.
    for row in sorted(results, key=lambda row: (row["model"] != MAIN, row["split"] != "test")):
        is_main = row["model"] == MAIN
        place = row["split"] if is_main else f"{row['split']}/{slug(row['model'])}"
        named |= _numbers(row, place, with_ends=is_main)
    for row in cohorts:
        if row["model"] == MAIN and row["split"] == "test":
            group = GROUP_NAMES.get(row["cohort"], row["cohort"])
            named |= _numbers(row, f"test/{group}", with_ends=False)
    return named


def _numbers(row: Row, place: str, *, with_ends: bool) -> dict[str, float]:
    return {
        f"{place}/{name}": float(value)
        for name, value in row.items()
        if isinstance(value, float) and (with_ends or not name.endswith(("_low", "_high")))
    }
