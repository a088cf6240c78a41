"""Rivals that ``evaluate`` trains: their rows, what they may see, which keys depend on them."""

from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from sicsrec.config import ContentRivalConfig, EvaluateConfig, PretrainIdConfig, RivalConfig
from sicsrec.data.split import HeldOut
from sicsrec.errors import DataError, LeakageError
from sicsrec.steps import get_step, trained_rivals
from sicsrec.steps.context import StepContext
from sicsrec.steps.evaluate import MODELS, SICSREC
from sicsrec.steps.runner import run_step, step_identity
from sicsrec.steps.trained_rivals import NAMES
from sicsrec.training.checkpoint import CHECKPOINT
from tests.unit.steps.tiny_store import MemoryTracker, TinyStore, folder_of, make_config
from tests.unit.steps.tiny_store import make_tiny_store as make_store

OWN = RivalConfig(max_epochs=3, width=8, n_layers=1)
OWN_CONTENT = ContentRivalConfig(**OWN.model_dump(), inner_width=8)
ALL = EvaluateConfig(
    n_bootstrap=10,
    rivals=tuple(NAMES),
    id_encoder=OWN,
    gru4rec=OWN,
    content_encoder=OWN_CONTENT,
    frozen_features=OWN_CONTENT,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def evaluated(tiny: TinyStore):
    tracker = MemoryTracker()
    config = make_config(evaluate=ALL)
    return run_step("evaluate", config, tiny.refs, tiny.store, open_tracker=tracker.open), tracker


def test_they_are_rows_of_every_table_in_their_place(evaluated) -> None:
    content = evaluated[0].report.content
    assert [r["model"] for r in content["results"] if r["split"] == "test"] == list(MODELS)
    assert set(NAMES.values()) < {row["model"] for row in content["cohorts"]}
    compared = {row["rival"] for row in content["differences"] if row["model"] == SICSREC}
    assert set(NAMES.values()) < compared
    for report in content["trained_rivals"].values():
        assert 1 <= report["best_epoch"] <= report["epochs"] <= 3
    frozen, trained = (content["trained_rivals"][n] for n in ("frozen_features", "content_encoder"))
    assert frozen["trainable_parameters"] < trained["trainable_parameters"]


def test_the_figures_of_selection_are_those_of_the_table(evaluated) -> None:
    content = evaluated[0].report.content
    valid = {row["model"]: row for row in content["results"] if row["split"] == "valid"}
    for rival, name in NAMES.items():
        found = content["trained_rivals"][rival]["valid"]["hr_at_10"]
        assert valid[name]["hr_at_10"] == pytest.approx(found)


def test_epochs_are_recorded_apart_from_results(evaluated) -> None:
    tracker = evaluated[1]
    assert "rivals/gru4rec/epochs/train/loss" in tracker.metrics
    assert "test/content_encoder/hr_at_10" in tracker.metrics
    assert "train/loss" not in tracker.metrics


def test_other_test_targets_leave_them_as_they_are(tmp_path: Path, evaluated) -> None:
    other = make_store(tmp_path)
    held_out = HeldOut.read(folder_of(other.store, other.refs["split/test"]))
    changed = HeldOut(held_out.context, held_out.targets.with_columns(item_id=pl.lit("v03")))
    other.commit("split_of_others", {"test": (("test", "train", "valid"), changed.write)})
    refs = other.refs | {"split/test": other.refs["split_of_others/test"]}
    found = run_step("evaluate", make_config(evaluate=ALL), refs, other.store).report.content
    expected = evaluated[0].report.content
    assert found["trained_rivals"] == expected["trained_rivals"]
    for split, is_equal in (("valid", True), ("test", False)):
        rows = [
            [row for row in content["results"] if row["split"] == split]
            for content in (found, expected)
        ]
        assert (rows[0] == rows[1]) is is_equal


def test_what_trains_them_cannot_open_the_test_part(
    tiny: TinyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = {name: tiny.store.open(ref) for name, ref in tiny.refs.items()}
    pending = tiny.store.begin("tiny", "evaluate", "e" * 16)
    monkeypatch.setattr(
        trained_rivals.StageTwoData, "read", lambda context: context.input("split/test")
    )
    with pytest.raises(LeakageError, match="did not declare the input split/test"):
        trained_rivals.train_rivals(StepContext(make_config(evaluate=ALL), readers, pending))


def test_a_killed_training_goes_on_with_the_rival_it_was_at(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    evaluated,
) -> None:
    tiny, real, calls = make_store(tmp_path), trained_rivals.fit_model, []

    def killed_at_the_second(*args, **kwargs):
        calls.append(kwargs["work"].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(trained_rivals, "fit_model", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run_step("evaluate", make_config(evaluate=ALL), tiny.refs, tiny.store)
    assert [path.parent.name for path in tmp_path.rglob(CHECKPOINT)] == ["id_encoder"]
    caplog.set_level("INFO")
    again = run_step("evaluate", make_config(evaluate=ALL), tiny.refs, tiny.store)
    assert again.report == evaluated[0].report
    continued = [text for text in caplog.messages if "continuing after epoch 3" in text]
    assert [text.split(":")[0] for text in continued] == ["id_encoder"]


def test_keys_hold_what_the_named_rivals_depend_on(tiny: TinyStore) -> None:
    step = get_step("evaluate")

    def key(evaluate: EvaluateConfig, **pretrain_id: float) -> dict:
        config = make_config(evaluate=evaluate)
        section = PretrainIdConfig(**pretrain_id)
        return step_identity(step, config.model_copy(update={"pretrain_id": section}), tiny.refs)

    without, one = EvaluateConfig(), EvaluateConfig(rivals=("gru4rec",))
    assert key(without) == key(without, dropout=0.1)
    assert key(without) == key(EvaluateConfig(gru4rec=OWN))
    assert key(one) != key(without)
    assert key(one) != key(one, dropout=0.1)
    assert key(one) != key(EvaluateConfig(rivals=("gru4rec",), gru4rec=OWN))
    assert key(one) == key(EvaluateConfig(rivals=("gru4rec",), frozen_features=OWN_CONTENT))


def test_a_gru_has_no_heads_that_its_width_must_suit() -> None:
    odd = EvaluateConfig(rivals=("gru4rec",), gru4rec=RivalConfig(width=65))
    assert make_config(evaluate=odd).rival_settings("gru4rec").width == 65
    with pytest.raises(ValidationError, match="n_heads"):
        EvaluateConfig.model_validate({"gru4rec": {"n_heads": 5}})


def test_values_of_their_own_win_over_those_of_the_id_encoder() -> None:
    config = make_config(evaluate=EvaluateConfig(gru4rec=RivalConfig(dropout=0.2)))
    assert config.rival_settings("gru4rec").dropout == 0.2
    assert config.rival_settings("frozen_features") == config.pretrain_id


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"rivals": ["gru4rec", "gru4rec"]}, "names a rival twice"),
        ({"rivals": ["sasrec"]}, "'gru4rec', 'content_encoder' or 'frozen_features'"),
        (
            {"rivals": ["content_encoder"], "content_encoder": {"n_heads": 3}},
            r"evaluate.content_encoder with pretrain_id: n_heads \(3\) must divide width \(256\)",
        ),
        (
            {"rivals": ["frozen_features"], "frozen_features": {"modalities": ["image"]}},
            "evaluate.frozen_features.modalities names image, but encode_items.source.image",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_runs(evaluate, message) -> None:
    config = make_config().model_dump() | {"evaluate": evaluate}
    with pytest.raises(ValidationError, match=message):
        type(make_config()).model_validate(config)


def test_a_modality_without_vectors_is_named(tiny: TinyStore) -> None:
    images = ContentRivalConfig(**OWN.model_dump(), modalities=("image",))
    section = EvaluateConfig(rivals=("frozen_features",), frozen_features=images)
    config = make_config().model_copy(update={"evaluate": section})
    with pytest.raises(DataError, match=r"evaluate.frozen_features.modalities names image"):
        run_step("evaluate", config, tiny.refs, tiny.store)
