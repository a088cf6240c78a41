"""The newest report, for the command line."""

from pathlib import Path

from sicsrec.artifacts import ArtifactStore
from sicsrec.errors import ArtifactMissingError
from sicsrec.steps.lineage import by_last_use, newest_run
from tasks.report import build_page
from tasks.settings import Settings


def newest_report(settings: Settings, dataset: str | None) -> Path:
    """Return the page on the newest run of a data set, or of the newest run at all.

    Raises:
        ArtifactMissingError: if there is no run, naming the data sets there are.
    """
    store = ArtifactStore(settings.store_root)
    names = store.datasets("ingest")
    runs = [newest_run(store, name) for name in names if dataset in (None, name)]
    # One that was cut off is shown only where none has reached the end.
    finished = [run for run in runs if "export" in run] or [run for run in runs if run]
    if not finished:
        known = f"; there are runs of {', '.join(names)}" if names else ""
        raise ArtifactMissingError(f"there is no run of {dataset or 'any data set'}{known}")
    newest = by_last_use(store, [list(run.values())[-1] for run in finished])[-1]
    run = next(run for run in finished if newest in run.values())
    refs = {name: ref for manifest in run.values() for name, ref in manifest.refs().items()}
    return build_page(refs, settings).path
