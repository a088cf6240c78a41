"""The page on a run, made when its last step is done. No step: nothing depends on it."""

from collections.abc import Callable
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from sicsrec.artifacts import ArtifactStore
from sicsrec.report import place
from sicsrec.report.place import Report, find_report
from tasks.outcome import Refs
from tasks.record import RunRecord, record_report
from tasks.settings import Settings


@task(name="report", task_run_name="report", cache_policy=NO_CACHE)
def report(refs: Refs, run: RunRecord) -> str:
    """Build the page, or find it, record it and return its path.

    See :mod:`sicsrec.report.build`.
    """
    page = build_page(refs, Settings.from_environment())
    record_report(page, run)
    return str(page.path)


def build_page(refs: Refs, settings: Settings) -> Report:
    """Build the page on these outputs, or find it."""
    if (found := find_report(refs, settings.report_folder)) is not None:
        return found
    # Imports torch and all that draws, which a run that reused everything need not wait for.
    from sicsrec.report.build import build_report

    return build_report(refs, ArtifactStore(settings.store_root), settings.report_folder)


def explorer_beside(page: Path) -> Path | None:
    """Return the path of the page beside a report on which one points at items, if there is one."""
    return place.explorer_beside(page)


def reports_on_removed_steps(
    settings: Settings, dataset: str, is_there: Callable[[str, str], bool]
) -> list[Path]:
    """Return the folders of reports on a dataset that show a step which the store has no more."""
    return place.reports_on_removed_steps(settings.report_folder, dataset, is_there)
