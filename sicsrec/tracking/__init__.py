"""Where steps record parameters, metrics, tables and figures.

This module is only the contract; :mod:`sicsrec.tracking.mlflow_store` is the one place of the
library that imports MLflow.
"""

import sys
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import polars as pl
from matplotlib.figure import Figure


@runtime_checkable
class Tracker(Protocol):
    """Receives what one step records.

    Metric names are the same everywhere: ``valid/ndcg_at_10``, ``train/loss``, ``test/hr_at_5``.
    """

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers; ``step`` is the epoch or the optimiser step, the x axis of a curve."""
        ...

    def log_table(self, name: str, frame: pl.DataFrame) -> None:
        """Record a small table under ``name``, without extension."""
        ...

    def log_figure(self, name: str, figure: Figure) -> None:
        """Record a picture under ``name``, without extension."""
        ...

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Record short words a person searches by."""
        ...

    def identity(self) -> dict[str, str]:
        """Return what finds this record again, e.g. a run id; kept in the step's manifest."""
        ...


class NullTracker:
    """Records nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """See :meth:`Tracker.log_metrics`."""

    def log_table(self, name: str, frame: pl.DataFrame) -> None:
        """See :meth:`Tracker.log_table`."""

    def log_figure(self, name: str, figure: Figure) -> None:
        """See :meth:`Tracker.log_figure`."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """See :meth:`Tracker.set_tags`."""

    def identity(self) -> dict[str, str]:
        """See :meth:`Tracker.identity`."""
        return {}


def is_tracking_failure(error: BaseException) -> bool:
    """Whether an error comes from what keeps the records; imports nothing to find out."""
    mlflow = sys.modules.get("mlflow.exceptions")
    return mlflow is not None and isinstance(error, mlflow.MlflowException)
