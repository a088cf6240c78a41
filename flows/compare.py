"""Variants of one pipeline, run one after the other under one server and compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from flows.selection import select_steps
from flows.series import NOT_BY_VALUES, in_words, run_in_series
from flows.server import mlflow_run_page
from flows.session import RunRequest, prefect_session
from flows.terminal import difference_tables
from flows.variants import VariantPlan
from sicsrec.artifacts import ArtifactRef
from sicsrec.errors import SicsrecError
from tasks.settings import Settings

if TYPE_CHECKING:
    from tasks.comparison import ComparisonOutcome

LAST_STEP = "evaluate"


@dataclass(frozen=True)
class ComparisonRequest:
    """What the user asked for."""

    variants: str
    """Name of a shipped set, or path of a file."""
    preset: str
    data: str | None
    seeds: Sequence[int]

    def title(self) -> str:
        """Return a name by which the runs of this comparison find each other."""
        return f"{Path(self.variants).stem} {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"


@dataclass
class _Finished:
    """What the runs have left so far."""

    per_user: dict[str, dict[int, ArtifactRef]]
    failed: dict[str, str] = field(default_factory=dict)


def run_comparison(
    request: ComparisonRequest, plan: VariantPlan, settings: Settings, console: Console, log: Path
) -> "ComparisonOutcome":
    """Run every variant with every seed, then compare; a run that fails does not stop the others.

    All variants of a seed come before the next seed, so that a comparison that is cut off has
    something to compare. What is finished is reused when it is run again, also after trouble that
    no variant brought, which stops a comparison.

    Raises:
        SicsrecError: if no run ended well, the temporary server does not start, the disk is full,
            or a judge, the records or the shared store cannot be reached.
    """
    name = request.title()
    finished = _Finished({variant: {} for variant in plan.overrides})
    runs = [(variant, seed) for seed in request.seeds for variant in plan.overrides]
    with prefect_session(settings, console, log):
        for number, (variant, seed) in enumerate(runs, start=1):
            heading = f"{number} of {len(runs)}: {variant}, seed {seed}"
            tags = {"comparison": name, "variant": variant, "seed": str(seed)}
            overrides = plan.overrides[variant]
            asked = RunRequest(
                request.preset, request.data, overrides, [], LAST_STEP, seed, tags=tags
            )
            steps = select_steps(plan.first.config, LAST_STEP)
            left = run_in_series(asked, steps, heading, console)
            if isinstance(left, NOT_BY_VALUES):
                raise left
            if isinstance(left, BaseException):
                finished.failed[f"{variant}, seed {seed}"] = in_words(left)
                continue
            refs = {name: ref for step in left.steps for name, ref in step.refs.items()}
            finished.per_user[variant][seed] = refs["evaluate/per_user"]
        if not any(finished.per_user.values()):
            raise SicsrecError(
                "no run ended well: "
                + "; ".join(f"{run}: {error}" for run, error in finished.failed.items())
            )
        from tasks.comparison import record_comparison

        not_run = {**plan.skipped, **finished.failed}
        return record_comparison(name, plan.first.config, finished.per_user, not_run)


def print_skipped(skipped: Mapping[str, str], console: Console) -> None:
    """Say which variants will not run, and why."""
    for variant, reason in skipped.items():
        console.print(Text(f"{variant}: skipped, {reason}", style="yellow"), soft_wrap=True)


def print_comparison(outcome: "ComparisonOutcome", settings: Settings, console: Console) -> None:
    """Print the tables and where they are recorded."""
    for table in difference_tables(outcome.rows):
        console.print(table)
    page = mlflow_run_page(settings, outcome.mlflow_experiment_id, outcome.mlflow_run_id)
    console.print(
        Text("MLflow  ", style="bold"), Text(", then ".join(page)), sep="", soft_wrap=True
    )
