"""The parts of the log as types that do not fit each other (leak lock 1).

``TrainLog`` is all that sampling, alignment and sequence building accept. ``HeldOut`` offers what
ranking needs: a context and one target per user.
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from sicsrec.data.schema import INTERACTIONS, TARGETS, check_schema


@dataclass(frozen=True)
class TrainLog:
    """The training interactions, schema :data:`sicsrec.data.schema.INTERACTIONS`."""

    interactions: pl.DataFrame

    @classmethod
    def read(cls, folder: Path) -> "TrainLog":
        """Read what :meth:`write` left in ``folder``."""
        frame = pl.read_parquet(folder / "interactions.parquet")
        return cls(check_schema(frame, INTERACTIONS, "training log"))

    def write(self, folder: Path) -> None:
        """Write the log into ``folder``."""
        self.interactions.write_parquet(folder / "interactions.parquet")


@dataclass(frozen=True)
class HeldOut:
    """Held-out targets and what came before them.

    ``context`` has the schema INTERACTIONS and holds, for every user of ``targets`` and for no
    other, all interactions before the target (possibly none); ``targets`` has the schema TARGETS,
    one row per user, sorted by user.
    """

    context: pl.DataFrame
    targets: pl.DataFrame

    @classmethod
    def read(cls, folder: Path) -> "HeldOut":
        """Read what :meth:`write` left in ``folder``."""
        return cls(
            check_schema(
                pl.read_parquet(folder / "context.parquet"), INTERACTIONS, "held-out context"
            ),
            check_schema(pl.read_parquet(folder / "targets.parquet"), TARGETS, "held-out targets"),
        )

    def write(self, folder: Path) -> None:
        """Write context and targets into ``folder``."""
        self.context.write_parquet(folder / "context.parquet")
        self.targets.write_parquet(folder / "targets.parquet")
