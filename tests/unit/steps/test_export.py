import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sicsrec.config import ExportConfig
from sicsrec.data.schema import INTERACTIONS
from sicsrec.data.sequences import Histories
from sicsrec.errors import DataError
from sicsrec.evaluation.ranking import recommend
from sicsrec.models.blend_storage import load_blend
from sicsrec.models.storage import load_model
from sicsrec.recommender import Recommender
from sicsrec.steps import export
from sicsrec.steps.runner import StepResult, run_step
from tests.unit.steps.tiny_store import (
    N_ITEMS,
    N_USERS,
    MemoryProgress,
    TinyStore,
    folder_of,
    histories_by_user,
    make_catalog,
    make_config,
    make_interactions,
    make_tiny_store,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return make_tiny_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def exported(tiny: TinyStore) -> tuple[StepResult, MemoryProgress]:
    progress = MemoryProgress()
    return run_step("export", make_config(), tiny.refs, tiny.store, progress=progress), progress


def output(tiny: TinyStore, result: StepResult, name: str) -> Path:
    return folder_of(tiny.store, result.refs[f"export/{name}"])


def recommendations(tiny: TinyStore, result: StepResult) -> pl.DataFrame:
    return pl.read_parquet(output(tiny, result, "recommendations") / "recommendations.parquet")


def scores_of_all_users(tiny: TinyStore) -> tuple[Histories, np.ndarray]:
    histories = Histories.from_interactions(make_interactions(), make_catalog())
    model = load_model(folder_of(tiny.store, tiny.refs["train_sicsrec/refit"]))
    return histories, model.score(histories).numpy()


def test_every_user_gets_the_best_unseen_items(tiny: TinyStore, exported) -> None:
    frame = recommendations(tiny, exported[0])
    assert frame.columns == ["user_id", "rank", "item_id", "score"]
    assert frame.schema["rank"] == pl.Int32
    assert frame.schema["score"] == pl.Float32
    assert frame["user_id"].n_unique() == N_USERS
    histories, scores = scores_of_all_users(tiny)
    watched = histories_by_user()
    for row, user_id in enumerate(histories.user_ids):
        mine = frame.filter(pl.col("user_id") == user_id)
        unseen = [i for i in range(1, N_ITEMS + 1) if f"v{i:02d}" not in watched[user_id]]
        best = sorted(unseen, key=lambda item: (-scores[row, item - 1], item))[:5]
        assert mine["item_id"].to_list() == [f"v{item:02d}" for item in best]
        assert mine["rank"].to_list() == list(range(1, len(best) + 1))
        np.testing.assert_allclose(
            mine["score"], scores[row, np.array(best) - 1], rtol=1e-5, atol=1e-6
        )


def test_users_for_whom_few_items_are_left_get_fewer_rows(tiny: TinyStore) -> None:
    config = make_config(export=ExportConfig(top_k=6))
    result = run_step("export", config, tiny.refs, tiny.store)
    counts = dict(recommendations(tiny, result).group_by("user_id").len().iter_rows())
    expected = {
        user_id: min(6, N_ITEMS - len(set(items))) for user_id, items in histories_by_user().items()
    }
    assert counts == expected
    short = sum(count < 6 for count in expected.values())
    assert short > 0
    assert result.report.content["users_with_fewer_than_top_k"] == short
    assert result.report.rows == sum(expected.values())


def test_users_who_have_watched_everything_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = make_tiny_store(tmp_path)
    ids = make_catalog().item_ids
    everything = pl.DataFrame({"user_id": "all", "item_id": ids, "timestamp": None})
    everything = everything.with_row_index("position").cast(dict(INTERACTIONS))
    log = pl.concat([make_interactions(), everything.select(list(INTERACTIONS))])
    tiny.commit(
        "ingest",
        {
            "catalog": ((), make_catalog().write),
            "interactions": (
                ("test", "train", "valid"),
                lambda folder: log.write_parquet(folder / "interactions.parquet"),
            ),
        },
    )
    result = run_step("export", make_config(), tiny.refs, tiny.store)
    assert "all" not in set(recommendations(tiny, result)["user_id"])
    assert result.report.content["users_without_recommendations"] == 1
    assert f"1 of {N_USERS + 1} users get no recommendations" in caplog.text
    assert f"number of items: {N_ITEMS}" in caplog.text
    caplog.clear()
    config = make_config(export=ExportConfig(top_k=5, remove_seen=False))
    result = run_step("export", config, tiny.refs, tiny.store)
    assert "all" in set(recommendations(tiny, result)["user_id"])
    assert result.report.content["users_without_recommendations"] == 0
    assert not caplog.records


def test_more_recommendations_than_items_are_all_of_them(tiny: TinyStore) -> None:
    config = make_config(export=ExportConfig(top_k=10**12, remove_seen=False))
    result = run_step("export", config, tiny.refs, tiny.store)
    assert recommendations(tiny, result).height == N_USERS * N_ITEMS
    assert result.report.content["users_with_fewer_than_top_k"] == N_USERS


def test_seen_items_can_stay(tiny: TinyStore) -> None:
    config = make_config(export=ExportConfig(top_k=N_ITEMS, remove_seen=False))
    result = run_step("export", config, tiny.refs, tiny.store)
    assert recommendations(tiny, result).height == N_USERS * N_ITEMS


def test_chunks_do_not_change_the_tables(
    tiny: TinyStore, exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = recommendations(tiny, exported[0])
    users = pl.read_parquet(output(tiny, exported[0], "vectors") / "users.parquet")
    monkeypatch.setattr(export, "CHUNK_USERS", 7)
    again = run_step("export", make_config(), tiny.refs, tiny.store, refresh=True)
    assert recommendations(tiny, again).drop("score").equals(whole.drop("score"))
    chunked = pl.read_parquet(output(tiny, again, "vectors") / "users.parquet")
    assert chunked["user_id"].equals(users["user_id"])
    np.testing.assert_allclose(
        chunked["vector"].to_numpy(), users["vector"].to_numpy(), rtol=1e-5, atol=1e-6
    )


def test_vectors_carry_ids_and_give_the_scores(tiny: TinyStore, exported) -> None:
    folder = output(tiny, exported[0], "vectors")
    items = pl.read_parquet(folder / "items.parquet")
    users = pl.read_parquet(folder / "users.parquet")
    assert items.schema["vector"] == users.schema["vector"] == pl.Array(pl.Float32, 8)
    assert items.select("item_id", "item_index").equals(
        make_catalog().frame.select("item_id", "item_index")
    )
    histories, scores = scores_of_all_users(tiny)
    assert users["user_id"].to_list() == histories.user_ids.to_list()
    products = users["vector"].to_numpy() @ items["vector"].to_numpy().T
    np.testing.assert_allclose(products, scores, rtol=1e-5, atol=1e-6)


def test_progress_reaches_its_totals(exported) -> None:
    assert exported[1].stages == {
        "recommend": (N_USERS, N_USERS),
        "user vectors": (N_USERS, N_USERS),
    }


def test_the_model_folder_holds_what_the_card_says(tiny: TinyStore, exported) -> None:
    folder = output(tiny, exported[0], "model")
    card = json.loads((folder / "model_card.json").read_text(encoding="utf-8"))
    assert set(card["files"]) | {"model_card.json"} == {path.name for path in folder.iterdir()}
    assert (card["dataset"], card["n_items"]) == ("tiny", N_ITEMS)
    assert card["parts_of_the_log_seen"] == ["train", "valid"]
    assert exported[0].refs["export/model"].sees == ("train", "valid")
    assert exported[0].refs["export/recommendations"].sees == ("test", "train", "valid")


def test_the_model_folder_recommends_what_the_table_says(tiny: TinyStore, exported) -> None:
    recommender = Recommender.load(output(tiny, exported[0], "model"))
    frame = recommendations(tiny, exported[0])
    for user_id in ("u00", "u01", "u17"):
        found = recommender.recommend(histories_by_user()[user_id], k=5)
        mine = frame.filter(pl.col("user_id") == user_id).select("item_id", "rank")
        assert found.select("item_id", "rank").equals(mine)


def test_the_model_folder_loads_without_the_pipeline(tiny: TinyStore, exported) -> None:
    code = (
        "import sys; from sicsrec.recommender import Recommender; "
        "print(Recommender.load(sys.argv[1]).recommend(['v01'], k=2).height); "
        "assert not any(m.split('.')[0] in ('prefect', 'mlflow') or m.startswith('sicsrec.steps') "
        "for m in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(output(tiny, exported[0], "model"))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2"


def test_a_blend_ranks_where_the_config_says_so(tiny: TinyStore) -> None:
    config = make_config(export=ExportConfig(top_k=5, score="blend"))
    result = run_step("export", config, tiny.refs, tiny.store)
    folder = output(tiny, result, "model")
    card = json.loads((folder / "model_card.json").read_text(encoding="utf-8"))
    assert card["ranks_by"] == "blend"
    assert set(card["files"]) | {"model_card.json"} == {path.name for path in folder.iterdir()}
    assert result.refs["export/model"].sees == ("train", "valid")
    models = [
        load_model(folder_of(tiny.store, tiny.refs[name]))
        for name in ("pretrain_id/refit", "train_sicsrec/refit")
    ]
    blend = load_blend(
        folder_of(tiny.store, tiny.refs["train_sicsrec/refit_blend"]) / "sicsrec", models
    )
    histories = Histories.from_interactions(make_interactions(), make_catalog())
    indices, scores = recommend(blend, histories, 5, remove_seen=True)
    table = recommendations(tiny, result)
    for row, user_id in enumerate(histories.user_ids):
        found = table.filter(pl.col("user_id") == user_id)
        expected = indices[row][indices[row] > 0]
        assert found["item_id"].to_list() == make_catalog().ids_of(expected).to_list()
        np.testing.assert_allclose(found["score"], scores[row][: len(expected)], rtol=1e-6)
    loaded = Recommender.load(folder).recommend(histories_by_user()["u17"], k=5)
    mine = table.filter(pl.col("user_id") == "u17").select("item_id", "rank")
    assert loaded.select("item_id", "rank").equals(mine)


def test_no_interactions_are_an_error(tmp_path: Path) -> None:
    tiny = make_tiny_store(tmp_path)
    nothing = make_interactions().clear()
    tiny.commit(
        "ingest",
        {
            "interactions": (
                ("test", "train", "valid"),
                lambda folder: nothing.write_parquet(folder / "interactions.parquet"),
            )
        },
    )
    with pytest.raises(DataError, match="nobody to recommend to"):
        run_step("export", make_config(), tiny.refs, tiny.store)
