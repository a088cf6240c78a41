import json
import logging
from pathlib import Path

import polars as pl
import pytest

from sicsrec.errors import ArtifactError, ConfigError, DataError
from sicsrec.models.storage import save_model
from sicsrec.recommender import Recommender
from tests.unit.steps.tiny_store import N_ITEMS, make_catalog, make_sicsrec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(make_sicsrec(), tmp_path)
    make_catalog().frame.select("item_id", "item_index").write_parquet(tmp_path / "items.parquet")
    return tmp_path


def test_recommendations_are_ranked_and_unseen(folder: Path) -> None:
    found = Recommender.load(folder).recommend(["v03", "v04"], k=4)
    assert found.columns == ["item_id", "rank", "score"]
    assert found["rank"].to_list() == [1, 2, 3, 4]
    assert found["score"].is_sorted(descending=True)
    assert not {"v03", "v04"} & set(found["item_id"])


def test_seen_items_can_stay_and_k_may_exceed_the_catalogue(folder: Path) -> None:
    recommender = Recommender.load(str(folder))
    assert recommender.recommend(["v03"], k=50, remove_seen=False).height == N_ITEMS
    assert recommender.recommend(["v03", "v03"], k=50).height == N_ITEMS - 1
    assert len(recommender.item_ids) == N_ITEMS


def test_unknown_items_are_left_out_with_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recommender = Recommender.load(folder)
    with caplog.at_level(logging.WARNING):
        found = recommender.recommend(["new", "v03", "newer", "v04"], k=3)
    assert "2 of 4 items" in caplog.text
    assert "'new'" in caplog.text
    assert found.equals(recommender.recommend(["v03", "v04"], k=3))


@pytest.mark.parametrize("history", [[], ["new"], ["new", "newer"]])
def test_histories_that_say_nothing_are_refused(folder: Path, history: list[str]) -> None:
    with pytest.raises(DataError, match=f"none of the {len(history)} items"):
        Recommender.load(folder).recommend(history)


def test_a_single_id_is_no_history(folder: Path) -> None:
    with pytest.raises(DataError, match="sequence of item ids"):
        Recommender.load(folder).recommend("v03")


def test_only_recent_items_are_read(folder: Path) -> None:
    recommender = Recommender.load(folder)
    recent = ["v01", "v02", "v03", "v04", "v05", "v06"]
    assert recommender.model.max_history_length == len(recent)
    with_older = recommender.recommend(["v11", "v10", *recent], remove_seen=False)
    assert with_older["item_id"].equals(recommender.recommend(recent, remove_seen=False)["item_id"])


def test_a_folder_without_items_is_no_model_folder(tmp_path: Path) -> None:
    save_model(make_sicsrec(), tmp_path)
    with pytest.raises(ArtifactError, match=r"no items\.parquet"):
        Recommender.load(tmp_path)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (pl.DataFrame({"item_id": ["v01"]}), "lacks the columns"),
        (make_catalog().frame.head(3), "has 3 items"),
        (
            make_catalog().frame.with_columns(item_id=pl.lit("same")),
            "more than once",
        ),
    ],
)
def test_items_must_be_those_of_the_model(folder: Path, items: pl.DataFrame, message: str) -> None:
    items.write_parquet(folder / "items.parquet")
    with pytest.raises(ArtifactError, match=message):
        Recommender.load(folder)


def test_unknown_kinds_of_models_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"kind": "tree"}), encoding="utf-8")
    with pytest.raises(ConfigError, match="unknown model 'tree'"):
        Recommender.load(folder)
