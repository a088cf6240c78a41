"""Comparisons under a real Prefect server, recorded in a real MLflow database."""

import io
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from prefect.settings import PREFECT_API_URL
from rich.console import Console

from flows.compare import ComparisonRequest, print_comparison, run_comparison
from flows.series import NOT_BY_VALUES
from flows.variants import VariantSet, plan_variants
from sicsrec.artifacts import ArtifactStore
from sicsrec.errors import DataError, SicsrecError
from sicsrec.tracking.mlflow_store import database_uri
from tasks.comparison import ComparisonOutcome
from tasks.settings import Settings
from tests.flows.conftest import SMALL

pytestmark = pytest.mark.usefixtures("prefect_server")

BROKEN = ["encode_items.source={kind: given, text: nowhere.npy}"]


def compare(home: Path, variants: VariantSet, seeds: list[int]) -> tuple[ComparisonOutcome, str]:
    """Run a comparison and return what it found and what a terminal of 80 columns shows."""
    settings = Settings(home, "cpu", None, PREFECT_API_URL.value())
    console = Console(file=io.StringIO(), width=80)
    plan = plan_variants(variants, "demo", None, SMALL, seeds[0])
    request = ComparisonRequest("mine.yaml", "demo", None, seeds)
    outcome = run_comparison(request, plan, settings, console, home / "log.txt")
    print_comparison(outcome, settings, console)
    assert isinstance(console.file, io.StringIO)
    return outcome, console.file.getvalue()


def recorded(home: Path) -> tuple[list[Run], Run]:
    """Return the runs of the variants and the summary of the newest comparison."""
    client = MlflowClient(database_uri(home))
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])
    summary = next(run for run in runs if str(run.info.run_name).startswith("comparison "))
    name = summary.data.tags["comparison"]
    mine = [run for run in runs if run.data.tags.get("comparison") == name]
    return [run for run in mine if "variant" in run.data.tags], summary


def n_made(home: Path, step: str) -> int:
    return len(ArtifactStore(home / "artifacts").manifests("demo", step))


def test_variants_share_steps_a_failure_stops_nothing_and_a_rerun_goes_on(home: Path) -> None:
    variants = {"full": [], "without adapters": ["train_sicsrec.adapter_rank=0"]}
    outcome, text = compare(home, variants | {"broken": BROKEN}, [1])
    assert [(row["model"], row["variant"]) for row in outcome.rows] == [
        (model, variant) for model in ("SICSRec", "SICSRec, blended") for variant in variants
    ]
    assert "3 of 3: broken, seed 1: failed, encode_items.source: there is no vector file" in text
    assert "1 of 3: full, seed 1: 8 steps, 0 of them cached" in text
    assert "2 of 3: without adapters, seed 1: 8 steps, 6 of them cached" in text
    runs, summary = recorded(home)
    assert {(r.data.tags["variant"], r.data.tags["seed"], r.info.status) for r in runs} == {
        ("full", "1", "FINISHED"),
        ("without adapters", "1", "FINISHED"),
        ("broken", "1", "FAILED"),
    }
    assert summary.info.status == "FINISHED"
    assert "broken, seed 1: DataError: encode_items.source" in summary.data.tags["not_run"]
    assert "broken, seed 1: DataError" in summary.data.tags[MLFLOW_RUN_NOTE]
    assert summary.info.run_id == outcome.mlflow_run_id
    client = MlflowClient(database_uri(home))
    assert [f.path for f in client.list_artifacts(summary.info.run_id, "figures")] == [
        "figures/variants.png"
    ]
    assert [f.path for f in client.list_artifacts(summary.info.run_id, "tables")] == [
        "tables/variants.json"
    ]

    outcome, text = compare(home, variants, [1, 2])
    assert {row["seeds"] for row in outcome.rows} == {2}
    assert "1 of 4: full, seed 1: 8 steps, 8 of them cached" in text
    assert "2 of 4: without adapters, seed 1: 8 steps, 8 of them cached" in text
    # What does not differ between the variants was made once per seed.
    made = {step: n_made(home, step) for step in ("split", "encode_items", "pretrain_id")}
    assert made == {"split": 1, "encode_items": 2, "pretrain_id": 2}
    assert n_made(home, "train_sicsrec") == 4
    assert n_made(home, "export") == 0
    assert "SICSRec, blended, test, 80 users, 2 seeds" in text
    # One line each, however long: how a run ended, and where to look.
    free = ("seed", "MLflow")
    lines = [line for line in text.splitlines() if not any(word in line for word in free)]
    assert max(len(line.rstrip()) for line in lines) <= 80


@pytest.mark.parametrize("kind", NOT_BY_VALUES)
def test_trouble_that_no_variant_brought_stops_the_comparison(
    home: Path, monkeypatch: pytest.MonkeyPatch, kind: type[SicsrecError]
) -> None:
    troubles = iter([DataError("of this variant"), kind("of all variants")])
    monkeypatch.setattr("flows.compare.run_in_series", lambda *_: next(troubles))
    with pytest.raises(kind, match="of all variants"):
        compare(home, {"full": [], "one": BROKEN, "two": ["train_sicsrec.dropout=0.2"]}, [1])


def test_when_every_run_fails_the_comparison_says_why(home: Path) -> None:
    variants = {
        "one": BROKEN,
        "two": ["encode_items.source={kind: given, text: elsewhere.npy}"],
    }
    with pytest.raises(SicsrecError, match=r"no run ended well: one, seed 1: DataError: .*; two"):
        compare(home, variants, [1])
