"""The page on a run, made when its last step is done. No step: nothing depends on it."""

from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE

from sicsrec.artifacts import ArtifactStore
from tasks.outcome import Refs
from tasks.record import RunRecord, record_report
from tasks.settings import Settings

if TYPE_CHECKING:
    from sicsrec.report.build import Report


@task(name="report", task_run_name="report", cache_policy=NO_CACHE)
def report(refs: Refs, run: RunRecord) -> str:
    """Build the page, or find it, record it and return its path.

    See :mod:`sicsrec.report.build`.
    """
    page = build_page(refs, Settings.from_environment())
    record_report(page, run)
    return str(page.path)


def build_page(refs: Refs, settings: Settings) -> "Report":
    """Build the page on these outputs, or find it."""
    from sicsrec.report.build import build_report

    return build_report(refs, ArtifactStore(settings.store_root), settings.report_folder)
