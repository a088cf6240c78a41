"""A small run of the whole pipeline, whose items have titles that try to be markup."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from flows.configuration import resolve_config
from sicsrec.artifacts import ArtifactRef, ArtifactStore
from sicsrec.report.build import build_report
from sicsrec.report.place import Report
from sicsrec.steps import STEP_NAMES
from sicsrec.steps.runner import run_step
from tests.flows.conftest import SMALL

HOSTILE = (
    "<script>document.title = 'owned'</script>\"'><img src=x onerror=\"document.title='owned'\">"
)


@dataclass(frozen=True)
class SmallRun:
    store: ArtifactStore
    refs: dict[str, ArtifactRef]
    reports: Path
    report: Report


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    root = tmp_path_factory.mktemp("small run")
    config = resolve_config("demo", overrides=SMALL).config
    store = ArtifactStore(root / "artifacts")
    refs: dict[str, ArtifactRef] = {}
    for name in STEP_NAMES:
        refs |= run_step(name, config, refs, store, code={"git_commit": "c0ffee" * 6}).refs
    # After the steps, which need titles that mean something.
    path = store.open(refs["ingest/catalog"]).path("items.parquet")
    catalog = pl.read_parquet(path).with_columns(
        title=pl.col("title") + HOSTILE,
        topics=pl.when(pl.col("item_index") % 2 == 0).then(["even"]).otherwise(["odd"]),
    )
    path.chmod(0o644)
    catalog.write_parquet(path)
    report = build_report(refs, store, root / "reports")
    return SmallRun(store, refs, root / "reports", report)
