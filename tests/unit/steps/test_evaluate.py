import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sicsrec.config import EvaluateConfig
from sicsrec.data.sequences import Histories
from sicsrec.data.split import HeldOut, TrainLog
from sicsrec.errors import DataError, LeakageError
from sicsrec.models.blend_storage import load_blend
from sicsrec.models.storage import load_model
from sicsrec.steps import evaluate
from sicsrec.steps.context import StepContext
from sicsrec.steps.evaluate import (
    ID_ENCODER_BLENDED,
    MODELS,
    SICSREC,
    SICSREC_BLENDED,
    WITH_VALID,
)
from sicsrec.steps.runner import StepResult, run_step
from sicsrec.steps.trained_rivals import NAMES
from tests.unit.steps.tiny_store import (
    COLD_ITEM,
    N_ITEMS,
    N_USERS,
    MemoryProgress,
    MemoryTracker,
    TinyStore,
    expected_rank,
    folder_of,
    histories_by_user,
    make_catalog,
    make_config,
    make_tiny_store,
)

UNTRAINED = [model for model in MODELS if model not in NAMES.values()]
"""What is ranked where no further rival is asked for."""
N_RANKED = N_USERS - 1  # user 1 has two interactions only
METRICS = ["hr_at_5", "hr_at_10", "ndcg_at_5", "ndcg_at_10", "mrr"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return make_tiny_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def evaluated(tiny: TinyStore) -> tuple[StepResult, MemoryTracker, MemoryProgress]:
    tracker, progress = MemoryTracker(), MemoryProgress()
    result = run_step(
        "evaluate",
        make_config(),
        tiny.refs,
        tiny.store,
        open_tracker=tracker.open,
        progress=progress,
    )
    return result, tracker, progress


def per_user(tiny: TinyStore, result: StepResult) -> pl.DataFrame:
    folder = folder_of(tiny.store, result.refs["evaluate/per_user"])
    return pl.read_parquet(folder / "per_user.parquet")


def test_results_list_every_model_on_both_splits(evaluated) -> None:
    result, _, _ = evaluated
    rows = result.report.content["results"]
    assert [(row["split"], row["model"]) for row in rows] == [
        ("valid", model) for model in UNTRAINED if not model.endswith(WITH_VALID)
    ] + [("test", model) for model in UNTRAINED]
    for row in rows:
        assert row["users"] == N_RANKED
        assert set(row) == {"model", "split", "users"} | {
            f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")
        }
        for metric in METRICS:
            assert 0 <= row[f"{metric}_low"] <= row[f"{metric}_high"] <= 1
    assert result.report.rows == N_RANKED * 17
    assert not result.was_reused


def test_without_a_refit_no_model_was_told_the_validation_targets(tiny: TinyStore) -> None:
    content = run_step("evaluate", make_config(refit=False), tiny.refs, tiny.store).report.content
    told = [row["model"] for row in content["results"] if row["model"].endswith(WITH_VALID)]
    assert told == ["transitions (train + valid)"]


@pytest.mark.parametrize(("model", "output"), [(SICSREC, "model"), (SICSREC + WITH_VALID, "refit")])
def test_both_fits_are_ranked_by_their_own_weights(tiny, evaluated, model, output) -> None:
    frame = per_user(tiny, evaluated[0]).filter(pl.col("model") == model, pl.col("split") == "test")
    scorer = load_model(folder_of(tiny.store, tiny.refs[f"train_sicsrec/{output}"]))
    catalog = make_catalog()
    assert frame.height == N_RANKED
    for row in frame.iter_rows(named=True):
        context = catalog.indices_of(histories_by_user()[row["user_id"]][:-1])
        history = Histories(pl.Series("user_id", ["u"]), np.array([0, len(context)]), context)
        target = int(catalog.indices_of([row["item_id"]])[0])
        assert row["rank"] == expected_rank(scorer.score(history)[0].numpy(), target, set())


def test_order_is_easy_for_transitions_and_hard_for_popularity(evaluated) -> None:
    rows = {(row["split"], row["model"]): row for row in evaluated[0].report.content["results"]}
    # All users but the first go round in the catalogue by ones.
    assert rows["test", "transitions"]["hr_at_5"] == pytest.approx(1 - 1 / N_RANKED)
    assert rows["test", "popularity"]["hr_at_5"] < 0.8


@pytest.mark.parametrize("remove_seen", [False, True])
def test_ranks_equal_a_loop_over_all_items(tiny: TinyStore, remove_seen: bool) -> None:
    config = make_config(evaluate=EvaluateConfig(n_bootstrap=10, remove_seen=remove_seen))
    result = run_step("evaluate", config, tiny.refs, tiny.store)
    frame = per_user(tiny, result).filter(pl.col("model") == SICSREC)
    model = load_model(folder_of(tiny.store, tiny.refs["train_sicsrec/model"]))
    catalog = make_catalog()
    assert frame.height == 2 * N_RANKED
    for user_id, items in histories_by_user().items():
        for split, cut in (("valid", 2), ("test", 1)):
            found = frame.filter(pl.col("user_id") == user_id, pl.col("split") == split)
            if len(items) < 3:
                assert found.is_empty()
                continue
            context = catalog.indices_of(items[:-cut])
            history = Histories(
                pl.Series("user_id", [user_id]), np.array([0, len(context)]), context
            )
            scores = model.score(history)[0].numpy()
            target = int(catalog.indices_of([items[-cut]])[0])
            rank = expected_rank(scores, target, set(context.tolist()) if remove_seen else set())
            assert found.row(0, named=True) | {"is_head": None} == {
                "user_id": user_id,
                "split": split,
                "model": SICSREC,
                "item_id": items[-cut],
                "rank": rank,
                "history_length": len(context),
                "is_cold": items[-cut] == COLD_ITEM,
                "is_head": None,
            }


def test_tables_are_written_and_recorded(tiny: TinyStore, evaluated) -> None:
    result, tracker, _ = evaluated
    folder = folder_of(tiny.store, result.refs["evaluate/metrics"])
    for file, name in (("metrics", "results"), ("cohorts", "cohorts")):
        frame = pl.read_parquet(folder / f"{file}.parquet")
        assert frame.to_dicts() == result.report.content[name]
        assert frame.equals(tracker.tables[name])
    assert set(tracker.figures) == {"results", "cohorts"}


def test_metrics_have_the_trackers_names(evaluated) -> None:
    result, tracker, _ = evaluated
    rows = {(row["split"], row["model"]): row for row in result.report.content["results"]}
    assert tracker.metrics["test/ndcg_at_10"] == rows["test", SICSREC]["ndcg_at_10"]
    assert tracker.metrics["valid/mrr"] == rows["valid", SICSREC]["mrr"]
    for slug, model in {
        "popularity": "popularity",
        "transitions": "transitions",
        "transitions_train_valid": "transitions (train + valid)",
        "id_encoder": "ID encoder",
    }.items():
        name = f"test/{slug}/hr_at_5"
        assert tracker.metrics[name] == rows["test", model]["hr_at_5"]
    assert tracker.metrics["test/sicsrec_blended/mrr"] == rows["test", SICSREC_BLENDED]["mrr"]
    refit = rows["test", SICSREC + WITH_VALID]["mrr"]
    assert tracker.metrics["test/sicsrec_train_valid/mrr"] == refit
    cold = next(
        row
        for row in result.report.content["cohorts"]
        if (row["split"], row["model"], row["cohort"]) == ("test", SICSREC, "cold_target")
    )
    assert tracker.metrics["test/cold_targets/hr_at_10"] == cold["hr_at_10"]
    assert next(iter(tracker.metrics)) == "test/hr_at_5"  # MLflow shows and charts it first
    assert len(tracker.metrics) == (17 + 2 * 2 + 6) * len(METRICS)


def test_differences_are_paired_and_of_test(evaluated) -> None:
    result, _, _ = evaluated
    rows = {(row["split"], row["model"]): row for row in result.report.content["results"]}
    differences = result.report.content["differences"]
    compared = [
        (SICSREC, "ID encoder"),
        (SICSREC, "transitions"),
        (SICSREC_BLENDED, "ID encoder"),
        (SICSREC_BLENDED, "ID encoder, blended"),
    ]
    assert [(row["model"], row["rival"], row["metric"]) for row in differences] == [
        (model, rival, metric) for model, rival in compared for metric in METRICS
    ]
    for row in differences:
        ours, theirs = rows["test", row["model"]], rows["test", row["rival"]]
        assert row["difference"] == pytest.approx(ours[row["metric"]] - theirs[row["metric"]])
        assert row["low"] <= row["high"]
        assert 0 <= row["share_below_zero"] <= 1


@pytest.mark.parametrize("remove_seen", [False, True])
def test_the_other_protocol_stands_beside(tiny: TinyStore, remove_seen: bool) -> None:
    """What one run calls the other way is what a run that is set to it calls its results."""
    content = {
        way: run_step(
            "evaluate",
            make_config(evaluate=EvaluateConfig(n_bootstrap=10, remove_seen=way)),
            tiny.refs,
            tiny.store,
        ).report.content
        for way in (False, True)
    }
    name = "results_watched_kept" if remove_seen else "results_watched_left_out"
    other = [row for row in content[not remove_seen]["results"] if row["split"] == "test"]
    assert content[remove_seen][name] == other


@pytest.mark.parametrize(
    ("model", "kind"), [(ID_ENCODER_BLENDED, "id_encoder"), (SICSREC_BLENDED, "sicsrec")]
)
@pytest.mark.parametrize(
    ("told", "output", "blend"), [("", "model", "blend"), (WITH_VALID, "refit", "refit_blend")]
)
def test_blends_rank_by_what_they_weigh(
    tiny: TinyStore, evaluated, model: str, kind: str, told: str, output: str, blend: str
) -> None:
    frame = per_user(tiny, evaluated[0])
    own = folder_of(tiny.store, tiny.refs[f"train_sicsrec/{blend}"]) / kind
    steps = ("pretrain_id", "train_sicsrec")
    models = [load_model(folder_of(tiny.store, tiny.refs[f"{step}/{output}"])) for step in steps]
    scorer = load_blend(own, models)
    catalog = make_catalog()
    ranks = frame.filter(pl.col("model") == model + told, pl.col("split") == "test")
    assert ranks.height == N_RANKED
    for row in ranks.iter_rows(named=True):
        context = catalog.indices_of(histories_by_user()[row["user_id"]][:-1])
        history = Histories(pl.Series("user_id", ["u"]), np.array([0, len(context)]), context)
        target = int(catalog.indices_of([row["item_id"]])[0])
        assert row["rank"] == expected_rank(scorer.score(history)[0].numpy(), target, set())


def test_cohorts_share_out_all_users(evaluated) -> None:
    rows = evaluated[0].report.content["cohorts"]
    users = {(row["split"], row["cohort"]): row["users"] for row in rows if row["model"] == SICSREC}
    assert users["test", "cold_target"] == 1
    assert users["valid", "cold_target"] == 0
    for split in ("valid", "test"):
        for first, second in (("warm", "cold"), ("head", "tail")):
            both = users[split, f"{first}_target"] + users[split, f"{second}_target"]
            assert both == N_RANKED
        assert users[split, "short_history"] + users[split, "long_history"] == N_RANKED
    empty = [row for row in rows if row["users"] == 0]
    assert all(row["ndcg_at_10"] is None for row in empty)


def test_protocol_and_policies_are_stated(evaluated) -> None:
    content = evaluated[0].report.content
    assert content["protocol"]["remove_seen"] is False
    assert content["protocol"]["n_items"] == N_ITEMS
    assert content["protocol"]["ranking"] == "full"
    assert content["protocol"]["split"] == "leave_one_out"
    assert content["splits"]["test"] == {
        "users": N_RANKED,
        "cold_targets": 1,
        "empty_contexts": 0,
    }


def test_progress_reaches_its_totals(evaluated) -> None:
    assert evaluated[2].stages == {
        "rank valid targets": (6 * N_RANKED, 6 * N_RANKED),
        "rank test targets": (11 * N_RANKED, 11 * N_RANKED),
    }


def test_a_second_run_is_reused_and_a_refresh_is_equal(tiny: TinyStore, evaluated) -> None:
    first = evaluated[0]
    again = run_step("evaluate", make_config(), tiny.refs, tiny.store)
    assert again.was_reused
    assert again.report == first.report
    refreshed = run_step("evaluate", make_config(), tiny.refs, tiny.store, refresh=True)
    assert not refreshed.was_reused
    digests = {name: ref.digest for name, ref in first.refs.items()}
    assert {name: ref.digest for name, ref in refreshed.refs.items()} == digests


def test_a_model_that_saw_test_is_refused_by_runner_and_step(tmp_path: Path) -> None:
    tiny = make_tiny_store(tmp_path, model_sees=("test", "train", "valid"))
    with pytest.raises(LeakageError, match="train_sicsrec/model"):
        run_step("evaluate", make_config(), tiny.refs, tiny.store)
    readers = {name: tiny.store.open(ref) for name, ref in tiny.refs.items()}
    pending = tiny.store.begin("tiny", "evaluate", "f" * 16)
    with pytest.raises(LeakageError, match=r"train_sicsrec/blend .* seen the test targets"):
        evaluate.run(StepContext(make_config(), readers, pending))


def test_users_with_an_empty_context_count(tmp_path: Path) -> None:
    tiny = make_tiny_store(tmp_path)
    folder = folder_of(tiny.store, tiny.refs["split/test"])
    held_out = HeldOut.read(folder)
    without = HeldOut(held_out.context.filter(pl.col("user_id") != "u05"), held_out.targets)
    tiny.commit("split", {"test": (("test", "train", "valid"), without.write)})
    result = run_step("evaluate", make_config(), tiny.refs, tiny.store)
    assert result.report.content["splits"]["test"]["empty_contexts"] == 1
    frame = per_user(tiny, result).filter(pl.col("user_id") == "u05", pl.col("split") == "test")
    assert frame["history_length"].to_list() == [0] * len(UNTRAINED)
    ranks = dict(zip(frame["model"], frame["rank"], strict=True))
    # Without a history all scores of the trained models are equal, which earns nothing.
    assert ranks["SICSRec"] == ranks["ID encoder"] == N_ITEMS
    assert ranks["transitions"] == ranks["popularity"]


def test_a_target_that_validation_alone_has_shown_is_cold(tmp_path: Path) -> None:
    tiny = make_tiny_store(tmp_path)
    item = "v05"
    valid = HeldOut.read(folder_of(tiny.store, tiny.refs["split/valid"]))
    assert item in valid.targets["item_id"]
    log = TrainLog.read(folder_of(tiny.store, tiny.refs["split/train"])).interactions
    without = TrainLog(log.filter(pl.col("item_id") != item))
    tiny.commit("split", {"train": (("train",), without.write)})
    result = run_step("evaluate", make_config(), tiny.refs, tiny.store)
    frame = per_user(tiny, result).filter(pl.col("model") == SICSREC)
    assert set(frame.filter("is_cold")["item_id"]) == {item, COLD_ITEM}
    assert frame.filter(pl.col("item_id") == item)["is_cold"].all()


def test_a_split_without_targets_is_an_error(tmp_path: Path) -> None:
    tiny = make_tiny_store(tmp_path)
    held_out = HeldOut.read(folder_of(tiny.store, tiny.refs["split/test"]))
    nothing = HeldOut(held_out.context.clear(), held_out.targets.clear())
    tiny.commit("split", {"test": (("test", "train", "valid"), nothing.write)})
    with pytest.raises(DataError, match="split/test holds no target"):
        run_step("evaluate", make_config(), tiny.refs, tiny.store)


def test_reports_hold_finite_numbers_only(evaluated) -> None:
    def check(value: object) -> None:
        if isinstance(value, dict):
            for entry in value.values():
                check(entry)
        elif isinstance(value, list):
            for entry in value:
                check(entry)
        elif isinstance(value, float):
            assert math.isfinite(value)

    check(evaluated[0].report.content)
