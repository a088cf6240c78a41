"""Results of all runs of a data set, for the command line."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from flows.terminal import new_table
from sicsrec.artifacts import ArtifactStore
from sicsrec.errors import ArtifactMissingError
from sicsrec.steps.results import ConfigurationResults, gather_results
from tasks.settings import Settings

_MOST_DIFFERENCES = 6


def results_views(settings: Settings, dataset: str) -> Iterator[RenderableType]:
    """Yield a table per configuration that was evaluated, the newest last.

    Raises:
        ArtifactMissingError: if there is none, naming the data sets there are.
    """
    store = ArtifactStore(settings.store_root)
    found = gather_results(store, dataset)
    if not found:
        names = store.datasets("evaluate")
        known = f"; there are such runs of {', '.join(names)}" if names else ""
        raise ArtifactMissingError(f"no run of {dataset} was evaluated{known}")
    for entry in found:
        yield from _views(dataset, entry)


def _views(dataset: str, entry: ConfigurationResults) -> Iterator[RenderableType]:
    several = len(entry.seeds) > 1
    word = "seeds" if several else "seed"
    table = new_table(f"{dataset} {entry.digest}, {word} {', '.join(map(str, entry.seeds))}")
    table.add_column("test", overflow="fold")
    columns = [name for name in next(iter(entry.models.values()), {}) if name != "mrr"]
    for metric in columns:
        table.add_column(metric.replace("_at_", "@").upper(), justify="right", no_wrap=True)
    over = "seeds" if several else "users"
    table.add_column(f"NDCG@10, {entry.confidence:.0%} over {over}", justify="right")
    for model, metrics in entry.models.items():
        last = metrics.get("ndcg_at_10")
        table.add_row(
            Text(model),
            *(_share(metrics[name].mean) if name in metrics else "" for name in columns),
            f"{_share(last.low)} - {_share(last.high)}" if last else "",
        )
    yield table
    if entry.differs_in:
        shown = ", ".join(entry.differs_in[:_MOST_DIFFERENCES])
        more = len(entry.differs_in) - _MOST_DIFFERENCES
        yield Text(f"{shown}{f' and {more} more' if more > 0 else ''}\n", style="dim")


def _share(value: float) -> str:
    return f"{value:.4f}".replace("0.", ".", 1)
