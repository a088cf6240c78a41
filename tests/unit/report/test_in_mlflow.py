"""MLflow's own page, in a browser: the newest run, its charts, its covers."""

from pathlib import Path

import pytest

from flows.configuration import resolve_config
from sicsrec.evaluation.names import tracked_metrics
from sicsrec.steps import STEP_NAMES
from tasks.record import open_store, record_report, recorded_run
from tests.chromium import chromium
from tests.flows.conftest import SMALL
from tests.mlflow_server import free_port, mlflow_server
from tests.unit.report.conftest import SmallRun

VIEW = "workflowType=machine_learning"
NAME = "demo, looked at by a test"


@pytest.fixture
def recorded(small_run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A parent run with figures and report; returns the URI of its store."""
    monkeypatch.setenv("SICSREC_HOME", str(tmp_path / "home"))
    config = resolve_config("demo", overrides=SMALL).config
    ref = small_run.refs["evaluate/metrics"]
    content = small_run.store.report("demo", "evaluate", ref.key)["content"]
    with recorded_run(NAME, config, STEP_NAMES, ()) as run:
        parent = open_store().attach(run.mlflow_run_id, run.mlflow_experiment_id)
        parent.log_metrics(tracked_metrics(content["results"], content["cohorts"]))
        record_report(small_run.report, run)
    return open_store().uri


@pytest.mark.slow
def test_newest_run_is_found_and_shows_charts_and_covers(recorded: str, tmp_path: Path) -> None:
    options = ("--backend-store-uri", recorded)
    with mlflow_server(free_port(), *options) as address, chromium(tmp_path / "profile") as page:
        page.look(1400)
        page.open(f"{address}/#/experiments/1/runs?{VIEW}")
        link = f"[...document.querySelectorAll('a')].find(a => a.innerText.includes('{NAME}'))"
        page.wait_for(f"!!{link}")
        page.save(tmp_path / "runs.png")
        run = str(page.value(f"{link}.href")).split("?")[0]
        page.open(f"{run}?{VIEW}")
        page.wait_for("document.body.innerText.includes('SICSRec on demo')")
        page.wait_for("document.body.innerText.includes('test/cold_targets/hr_at_10')")
        assert not page.value("document.body.innerText.includes('Judges')")
        page.save(tmp_path / "run.png")
        page.open(f"{run}/model-metrics?{VIEW}")
        page.wait_for("document.querySelectorAll('.js-plotly-plot, canvas').length > 0")
        page.save(tmp_path / "charts.png")
        page.open(f"{run}/artifacts/figures/results_ndcg_at_10.svg?{VIEW}")
        # The picture itself: 5 inches of 96 pixels each.
        page.wait_for("[...document.images].some(image => image.naturalWidth === 480)")
        page.save(tmp_path / "figure.png")
        # Within one document MLflow keeps showing the file that was opened first.
        page.open("about:blank")
        page.open(f"{run}/artifacts/report.html?{VIEW}")
        frame = "document.querySelector('iframe[src^=\"blob:\"]')"
        page.wait_for(f"!!{frame}")
        # MLflow locks the page into its frame, so what stands in it is read from its source.
        page.value(f"fetch({frame}.src).then(r => r.text()).then(t => {{ window.seen = t; }})")
        page.wait_for("(window.seen || '').split('data:image/jpeg').length > 100")
        page.save(tmp_path / "report.png")
        page.open("about:blank")
        page.open(f"{run}/artifacts/explorer.html?{VIEW}")
        page.wait_for(f"!!{frame}")
        page.value(f"fetch({frame}.src).then(r => r.text()).then(t => {{ window.seen = t; }})")
        page.wait_for("(window.seen || '').includes('Plotly.newPlot')")
        page.save(tmp_path / "explorer.png")
