"""Searches under a real Prefect server, recorded in a real MLflow database."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from prefect.settings import PREFECT_API_URL
from rich.console import Console

from flows import search
from flows.configuration import resolve_config
from flows.search import (
    FinishedSearch,
    SearchRequest,
    load_ranges,
    plan_search,
    print_search,
    run_search,
)
from flows.shipped import shipped_names
from sicsrec.artifacts import ArtifactStore
from sicsrec.errors import (
    ConfigError,
    DataError,
    DiskFullError,
    NotApplicableError,
    SicsrecError,
    TrainingDivergedError,
)
from sicsrec.steps import get_step
from sicsrec.tracking.mlflow_store import database_uri
from sicsrec.tuning.study import TrialRow
from tasks.settings import Settings
from tests.flows.conftest import SMALL

RANGES = """
train_sicsrec.temperature: {low: 0.05, high: 0.2, log: true}
train_sicsrec.modalities: [null, [text]]
train_sicsrec.dropout, train_sicsrec.fusion_dropout: [0.3, 0.2]
"""


@pytest.fixture
def request_(home: Path) -> SearchRequest:
    ranges = home / "mine.yaml"
    ranges.write_text(RANGES, encoding="utf-8")
    return SearchRequest("demo", None, SMALL, 1, str(ranges), "ndcg_at_10", 2, None)


def settings_of(home: Path, server: str | None = None) -> Settings:
    return Settings(home, "cpu", None, server)


def carry_out(home: Path, request: SearchRequest) -> tuple[FinishedSearch, str]:
    """Search and return what was found and what a terminal of 80 columns shows."""
    settings = settings_of(home, PREFECT_API_URL.value())
    console = Console(file=io.StringIO(), width=80)
    plan = plan_search(request, settings)
    finished = run_search(plan, settings, console, home / "log.txt")
    print_search(finished, plan, settings, console)
    assert isinstance(console.file, io.StringIO)
    return finished, console.file.getvalue()


def vectors(home: Path, content: bytes = b"vectors") -> Path:
    """Return a file of given vectors, which no plan reads."""
    file = home / "text.npy"
    file.write_bytes(content)
    return file


def runs_of(home: Path) -> list[Run]:
    client = MlflowClient(database_uri(home))
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def n_made(home: Path, step: str) -> int:
    return len(ArtifactStore(home / "artifacts").manifests("demo", step))


@pytest.mark.usefixtures("prefect_server")
def test_a_killed_search_goes_on_sees_no_test_target_and_leaves_a_preset(
    home: Path, request_: SearchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = search.run_in_series

    def killed_at_the_second(asked, steps, heading, *args):
        if heading.startswith("trial 2"):
            raise KeyboardInterrupt
        return real(asked, steps, heading, *args)

    with monkeypatch.context() as patch:
        patch.setattr(search, "run_in_series", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            carry_out(home, request_)
    [parent] = [
        run
        for run in runs_of(home)
        if "best.trial" not in run.data.tags and str(run.info.run_name).startswith("search ")
    ]
    assert parent.info.status == "KILLED"

    finished, text = carry_out(home, request_)
    assert [row.number for row in finished.rows] == [1, 2]
    assert "trial 1 of 2" not in text, "a finished trial must not run again"
    assert "7 steps, 6 of them cached" in text
    assert "2 trials, best by validation" in text
    own = resolve_config("demo", overrides=SMALL).config.train_sicsrec
    assert finished.rows[0].values == {
        "train_sicsrec.temperature": own.temperature,
        "train_sicsrec.modalities": None,
        "train_sicsrec.dropout": own.dropout,
        "train_sicsrec.fusion_dropout": own.fusion_dropout,
    }
    assert (n_made(home, "pretrain_id"), n_made(home, "train_sicsrec")) == (1, 2)

    runs = runs_of(home)
    [parent] = [run for run in runs if str(run.info.run_name).startswith("search ")]
    assert parent.info.run_id == finished.mlflow_run_id
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["valid/ndcg_at_10"] == finished.winner.value
    for tied in ("dropout", "fusion_dropout"):
        assert parent.data.params[f"train_sicsrec.{tied}"] == "0.3, 0.2"
    trials = {run.data.tags["trial"]: run for run in runs if "trial" in run.data.tags}
    assert set(trials) == {"1", "2"}
    for row in finished.rows:
        run = trials[str(row.number)]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.metrics["valid/ndcg_at_10"] == row.value
        assert float(run.data.params["train_sicsrec.temperature"]) == pytest.approx(
            row.values["train_sicsrec.temperature"]
        )
    client = MlflowClient(database_uri(home))
    kept = [
        f.path
        for kind in ("tables", "figures")
        for f in client.list_artifacts(parent.info.run_id, kind)
    ]
    assert kept == ["tables/trials.json", "figures/trials.png"]

    # No figure of the test part exists anywhere: neither computed nor recorded.
    assert n_made(home, "evaluate") == 0
    named = {name for run in runs for name in run.data.metrics}
    assert any(name.startswith("valid/") for name in named)
    # What describes the split itself, and no model, is all that is named after the part.
    named_test = {name for name in named if "test" in name.split("/")}
    assert named_test == {"test/cold_target_share", "test/users"}

    preset = finished.preset.read_text(encoding="utf-8")
    assert f"# trial {finished.winner.number} of 2" in preset
    assert f"# Validation ndcg_at_10 {finished.winner.value:.4f}; the preset's own" in preset
    resolved = resolve_config(str(finished.preset))
    best = finished.winner.values
    assert resolved.config.train_sicsrec.temperature == best["train_sicsrec.temperature"]
    expected = resolve_config("demo", overrides=SMALL, seed=1).config
    changed = expected.train_sicsrec.model_copy(
        update={
            "temperature": best["train_sicsrec.temperature"],
            "modalities": resolved.config.train_sicsrec.modalities,
            "dropout": best["train_sicsrec.dropout"],
            "fusion_dropout": best["train_sicsrec.fusion_dropout"],
        }
    )
    assert resolved.config.refit, "trials are not trained twice, what is run with the winner is"
    assert resolved.config == expected.model_copy(update={"train_sicsrec": changed})

    again, text = carry_out(home, replace(request_, n_trials=1))
    assert again.rows == finished.rows
    assert "trial " not in text.split("2 trials")[0]


@pytest.mark.parametrize("ranges", shipped_names("ranges"))
def test_no_trial_declares_an_input_that_has_seen_the_test_part(
    home: Path, request_: SearchRequest, ranges: str
) -> None:
    plan = plan_search(replace(request_, ranges=ranges), settings_of(home))
    steps = plan.steps
    assert steps[-1] == ("pretrain_id" if ranges == "step-one" else "train_sicsrec")
    assert ("encode_items" in steps) == (ranges != "step-one"), "step 1 needs no vectors"
    reading = {name for name in steps for entry in get_step(name).inputs if "test" in entry.may_see}
    assert reading == {"split"}


def test_step_one_makes_vectors_first_where_items_start_at_them(
    home: Path, request_: SearchRequest
) -> None:
    overrides = [*SMALL, "pretrain_id.item_start.kind=content"]
    request_ = replace(request_, ranges="step-one", overrides=overrides)
    assert {"encode_items", "pretrain_id"} < set(plan_search(request_, settings_of(home)).steps)


@pytest.mark.parametrize("preset", ["demo", "bili_food", "movielens-100k"])
@pytest.mark.parametrize("ranges", shipped_names("ranges"))
def test_shipped_ranges_hold_the_values_of_shipped_presets(preset: str, ranges: str) -> None:
    own = {
        path: value
        for path, value, _ in resolve_config(
            preset, data=None if preset == "demo" else "/data"
        ).rows()
    }
    for entry in load_ranges(ranges):
        assert all(entry.holds(own[path]) for path in entry.paths), entry.name


def test_what_trials_depend_on_makes_another_search(home: Path, request_: SearchRequest) -> None:
    def name(**changes) -> str:
        return plan_search(replace(request_, **changes), settings_of(home)).name

    assert name() == name(n_trials=50, output=home / "x.yaml")
    assert name() == name(overrides=[*SMALL, "train_sicsrec.temperature=0.1"])
    others = [
        name(overrides=[*SMALL, "train_sicsrec.alpha=0.4"]),
        name(overrides=[*SMALL, "ingest.reader.n_users=90"]),
        name(overrides=[*SMALL, "evaluate.remove_seen=true"]),
        name(seed=2),
        name(metric="mrr"),
        name(ranges="step-one"),
    ]
    assert len({name(), *others}) == 7


def test_other_vectors_at_the_same_place_make_another_search(
    home: Path, request_: SearchRequest
) -> None:
    source = f"encode_items.source={{kind: given, text: {home / 'text.npy'}}}"
    asked = replace(request_, overrides=[*SMALL, source])
    with pytest.raises(DataError, match=r"there is no vector file .*text\.npy"):
        plan_search(asked, settings_of(home))
    vectors(home)
    first = plan_search(asked, settings_of(home)).name
    assert plan_search(asked, settings_of(home)).name == first
    vectors(home, b"others")
    assert plan_search(asked, settings_of(home)).name != first


@pytest.mark.usefixtures("prefect_server")
def test_trouble_that_no_value_brought_is_no_trial(
    home: Path, request_: SearchRequest, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    troubles = iter([DiskFullError("the disk is full"), TrainingDivergedError("not a number")])
    monkeypatch.setattr(search, "run_in_series", lambda *_: next(troubles))
    with pytest.raises(DiskFullError):
        carry_out(home, replace(request_, n_trials=1))
    # The next process makes that trial, and what its values bring is kept.
    with pytest.raises(SicsrecError, match="no trial ended well: TrainingDivergedError"):
        carry_out(home, replace(request_, n_trials=1))
    assert next(troubles, None) is None
    with pytest.raises(SicsrecError, match="no trial ended well"):
        carry_out(home, replace(request_, n_trials=1))
    assert "have not tried" not in caplog.text
    # Other values of one's own come first, as soon as there is a trial for them.
    better = replace(request_, n_trials=1, overrides=[*SMALL, "train_sicsrec.temperature=0.1"])
    with pytest.raises(SicsrecError, match="no trial ended well"):
        carry_out(home, better)
    assert "the 1 trials have not tried the configuration's own values" in caplog.text


def test_a_file_of_ones_own_stays_the_base_of_the_preset(
    home: Path, request_: SearchRequest
) -> None:
    mine = home / "base.yaml"
    mine.write_text("extends: demo\nseed: 5\ntrain_sicsrec: {alpha: 0.4}\n", encoding="utf-8")
    values = search.extend_preset(str(mine), {"train_sicsrec.temperature": 0.07})
    assert values == {
        "extends": "demo",
        "seed": 5,
        "train_sicsrec": {"alpha": 0.4, "temperature": 0.07},
    }
    assert mine.read_text(encoding="utf-8").startswith("extends"), "the file itself stays"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "loss"}, "--metric loss: known are hr_at_5"),
        ({"ranges": "nowhere"}, "--ranges nowhere: there is no such file"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    home: Path, request_: SearchRequest, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_search(replace(request_, **changes), settings_of(home))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train_sicsrec.alphas: [1, 2]", "range of train_sicsrec.alphas, at 1: .*did you mean"),
        ("train_sicsrec.dropout: {low: 0.1, high: 1.5}", "at 1.5: .*train_sicsrec.dropout"),
        ("pretrain_id.width: [8, 16]", "pretrain_id.width is 8 but train_sicsrec.width is 16"),
    ],
)
def test_ranges_are_tried_on_the_configuration_first(
    home: Path, request_: SearchRequest, text: str, message: str
) -> None:
    Path(request_.ranges).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"(?s){message}"):
        plan_search(request_, settings_of(home))


def test_a_value_that_asks_for_missing_data_is_refused(home: Path, request_: SearchRequest) -> None:
    given = [*SMALL, f"encode_items.source={{kind: given, text: {vectors(home)}}}"]
    Path(request_.ranges).write_text("train_sicsrec.modalities: [[text], [image]]", "utf-8")
    with pytest.raises(ConfigError, match=r"range of train_sicsrec\.modalities") as caught:
        plan_search(replace(request_, overrides=given), settings_of(home))
    assert isinstance(caught.value.__cause__, NotApplicableError)


def test_ranges_of_steps_that_no_trial_runs_are_refused(
    home: Path, request_: SearchRequest
) -> None:
    source = f"encode_items.source={{kind: given, text: {vectors(home)}}}"
    asked = replace(request_, overrides=[*SMALL, source])
    ranges = Path(request_.ranges)
    learning = "align_encoders.n_epochs: [1, 2]\n"
    ranges.write_text(f"train_sicsrec.dropout: [0.1, 0.2]\n{learning}", "utf-8")
    with pytest.raises(ConfigError, match=r"range of align_encoders\.n_epochs: .*runs only ingest"):
        plan_search(asked, settings_of(home))
    plan_search(replace(asked, overrides=SMALL), settings_of(home))
    sources = f"encode_items.source: [{{kind: given, text: {vectors(home)}}}, {{kind: encoders}}]\n"
    ranges.write_text(f"{sources}{learning}", "utf-8")
    plan_search(asked, settings_of(home))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder.yaml", "this is a folder"),
        ("binary.yml", "this file is not a search's"),
        ("best.txt", r"must end in \.yaml or \.yml"),
        ("best", r"must end in \.yaml or \.yml"),
    ],
)
def test_a_file_that_cannot_hold_the_winner_is_refused(
    home: Path, request_: SearchRequest, name: str, message: str
) -> None:
    (home / "folder.yaml").mkdir()
    (home / "binary.yml").write_bytes(b"\xff\xfe\x00")
    (home / "empty.yaml").touch()
    plan_search(replace(request_, output=home / "empty.yaml"), settings_of(home))
    with pytest.raises(ConfigError, match=message):
        plan_search(replace(request_, output=home / name), settings_of(home))


def test_own_values_may_be_sections(home: Path, request_: SearchRequest) -> None:
    asked = replace(request_, overrides=["align_encoders.n_epochs=3"])
    Path(request_.ranges).write_text(
        "align_encoders.text_encoder.architecture: [{width: 16, n_layers: 1, n_heads: 1}, {}]\n"
        "align_encoders.n_epochs: [1, 3]\n",
        "utf-8",
    )
    plan = plan_search(asked, settings_of(home))
    encoder = plan.resolved.config.model_dump(mode="json")["align_encoders"]["text_encoder"]
    assert search._own_values(plan) == {
        "align_encoders.text_encoder.architecture": encoder["architecture"],
        "align_encoders.n_epochs": 3,
    }


def test_the_command_shown_can_be_pasted(home: Path, request_: SearchRequest) -> None:
    plan = plan_search(request_, settings_of(home))
    plan = replace(plan, request=replace(request_, data="my data"))
    row = TrialRow(1, {"train_sicsrec.temperature": 0.1}, 0.5, "")
    console = Console(file=io.StringIO(), width=80)
    finished = FinishedSearch([row], row, Path("of mine/best.yaml"), "1", "2")
    print_search(finished, plan, settings_of(home), console)
    assert isinstance(console.file, io.StringIO)
    assert "sicsrec run 'of mine/best.yaml' --data 'my data'" in console.file.getvalue()


def test_a_file_in_the_way_of_the_winner_is_found_before_the_trials(
    home: Path, request_: SearchRequest
) -> None:
    home.mkdir(exist_ok=True)
    (home / "plain").write_text("a file")
    with pytest.raises(ConfigError, match="plain is a file, not a folder"):
        plan_search(replace(request_, output=home / "plain" / "best.yaml"), settings_of(home))
    plan_search(replace(request_, output=home / "new" / "folder" / "best.yaml"), settings_of(home))


def test_a_file_of_somebody_else_is_not_overwritten(home: Path, request_: SearchRequest) -> None:
    mine = home / "mine-too.yaml"
    mine.write_text(yaml.safe_dump({"extends": "demo"}), encoding="utf-8")
    with pytest.raises(ConfigError, match="this file is not a search's"):
        plan_search(replace(request_, output=mine), settings_of(home))
