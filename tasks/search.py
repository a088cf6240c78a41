"""The MLflow record of a search: one run, and every trial a run below it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sicsrec.artifacts import ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.tracking.mlflow_store import PipelineRun, tags_of_child
from sicsrec.tuning.plots import plot_trials, trial_table
from sicsrec.tuning.study import TrialRow
from tasks.outcome import RunOutcome
from tasks.record import open_store
from tasks.settings import Settings


@dataclass(frozen=True)
class SearchRecord:
    """The run of a search."""

    name: str
    run: PipelineRun

    def tags_of_trial(self, number: int) -> dict[str, str]:
        """Return the tags that put a pipeline run below the search."""
        return {"search": self.name, "trial": str(number), **tags_of_child(self.run.run_id)}

    def log_trials(self, rows: Sequence[TrialRow], metric: str) -> None:
        """Record the trials so far as table and picture."""
        tracker = self.run.tracker()
        tracker.log_table("trials", trial_table(rows, metric))
        if any(row.value is not None for row in rows):
            tracker.log_figure("trials", plot_trials(rows, metric))

    def log_winner(self, winner: TrialRow, metric: str) -> None:
        """Record which trial won, and its validation figure."""
        if winner.value is not None:
            self.run.log_metrics({metric: winner.value})
        chosen = {f"best.{path}": str(value) for path, value in winner.values.items()}
        self.run.set_tags({"best.trial": str(winner.number), **chosen})


@contextmanager
def recorded_search(
    name: str, config: PipelineConfig, params: Mapping[str, object], earlier_run: str | None
) -> Iterator[SearchRecord]:
    """Open the run of a search, the one it had before where there is one; end it with the block.

    Args:
        name: of the search.
        config: of the preset.
        params: ranges, metric and the like.
        earlier_run: id of the run that an earlier process of this search recorded in.
    """
    store = open_store()
    run = store.resume(earlier_run) if earlier_run else None
    tags = {"dataset": config.dataset, "search": name}
    run = run or store.begin(config.dataset, f"search {name}", params, tags)
    with run.closing():
        yield SearchRecord(name, run)


def record_trial(outcome: RunOutcome, config: PipelineConfig, step: str) -> dict[str, float]:
    """Return the validation figures of a trial's last step and record them on the trial's run.

    A reused step does not run and records nothing itself.

    Args:
        outcome: of the trial's run.
        config: of the preset.
        step: the step whose model is judged.
    """
    store = ArtifactStore(Settings.from_environment().store_root)
    [key] = [entry.key for entry in outcome.steps if entry.name == step]
    report = store.report(config.dataset, step, key)["content"]
    figures = {f"valid/{name}": float(value) for name, value in report["valid"].items()}
    run = open_store().attach(outcome.mlflow_run_id, outcome.mlflow_experiment_id)
    run.log_metrics(figures)
    return figures
