import json
import logging
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import polars as pl
import pytest
import torch

from sicsrec.data.sequences import Histories
from sicsrec.errors import ArtifactError, ConfigError, DataError
from sicsrec.models.content import ContentEmbedding
from sicsrec.models.new_items import NewItemVectors
from sicsrec.models.sicsrec import SICSRec
from sicsrec.models.storage import save_model
from sicsrec.recommender import Recommender
from sicsrec.recommender.explanations import explain
from sicsrec.recommender.service import RankingService
from tests.unit.recommender_parts import new_items
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


def test_content_of_all_items_is_made_once_for_all_requests(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make_sicsrec()
    model = SICSRec(**plain.settings() | {"item_scoring": "id_and_content"})
    made, original = [], ContentEmbedding.of_all
    monkeypatch.setattr(ContentEmbedding, "of_all", lambda self: made.append(1) or original(self))
    recommender = Recommender(model, pl.read_parquet(folder / "items.parquet"))
    answers = [recommender.recommend(["v03", item], k=N_ITEMS) for item in ("v04", "v05", "v06")]
    assert len(made) == 1
    for item, answer in zip(("v04", "v05", "v06"), answers, strict=True):
        scores = model.score(recommender.histories({"u": ["v03", item]}))[0]
        columns = [recommender.indices_of([found])[0] - 1 for found in answer["item_id"]]
        np.testing.assert_allclose(answer["score"], scores[columns], rtol=1e-5)


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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"k": "2"}, "k must be a whole number, got '2'"),
        ({"k": 2.5}, "k must be a whole number, got 2.5"),
        ({"k": True}, "k must be a whole number, got True"),
        ({"chunk_users": 0}, "chunk_users must be at least 1, got 0"),
        ({"chunk_users": -1}, "chunk_users must be at least 1, got -1"),
        ({"histories": [["u1", "a", "b"]]}, "among them is"),
        ({"histories": 5}, "found int"),
    ],
)
def test_numbers_and_histories_that_cannot_be_are_refused(
    folder: Path, values: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Callers have no type checker.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    recommender = Recommender.load(folder)
    with pytest.raises(DataError, match=message):
        list(recommender.recommend_many(**{"histories": {"u1": []}, **values}))
    if "k" in values:
        with pytest.raises(DataError, match=message):
            recommender.recommend(["v03"], values["k"])
        with pytest.raises(DataError, match=message):
            RankingService(recommender).answer([], values["k"])


def test_a_request_that_is_no_mapping_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(DataError, match="request 0 must be a mapping"):
        RankingService(Recommender.load(folder)).answer([None])


def test_only_recent_items_are_read(folder: Path) -> None:
    recommender = Recommender.load(folder)
    recent = ["v01", "v02", "v03", "v04", "v05", "v06"]
    assert recommender.model.max_history_length == len(recent)
    with_older = recommender.recommend(["v11", "v10", *recent], remove_seen=False)
    assert with_older["item_id"].equals(recommender.recommend(recent, remove_seen=False)["item_id"])


@pytest.mark.parametrize("name", ["model.safetensors", "items.parquet", "config.json"])
def test_a_file_that_was_cut_is_named_as_damaged(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    for left in (len(content) // 2, 3, 0):
        (folder / name).write_bytes(content[:left])
        with pytest.raises(ArtifactError, match=f"{folder.name}.*(not a model folder|no readable)"):
            Recommender.load(folder)


@pytest.mark.parametrize(
    "config", [[], {"kind": "sicsrec", "settings": {"width": 3}}, {"kind": "sicsrec"}]
)
def test_a_description_of_no_model_is_named(folder: Path, config: object) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=f"{folder.name}.*(not a model folder|no model)"):
        Recommender.load(folder)


def test_a_device_that_does_not_exist_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="device 'foo' cannot be used"):
        Recommender.load(folder, "foo")


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


def without_two_texts(folder: Path) -> tuple[Recommender, Any]:
    """Return a recommender that has no texts of the items v01 and v04, and its text adapter."""
    recommender = Recommender.load(folder)
    assert isinstance(recommender.model, SICSRec)
    adapter = recommender.model.content_embedding.adapters["text"]
    adapter.present[1] = 0
    adapter.present[4] = 0
    return recommender, adapter


def test_items_without_the_modality_are_near_nothing(folder: Path) -> None:
    recommender, _ = without_two_texts(folder)
    with pytest.raises(DataError, match="'v01' has no vector by text"):
        recommender.neighbours("v01", by="text")
    near = recommender.neighbours("v02", k=N_ITEMS, by="text")
    assert near.height == N_ITEMS - 3
    assert not {"v01", "v02", "v04"} & set(near["item_id"])
    assert recommender.neighbours("v01", k=N_ITEMS, by="id").height == N_ITEMS - 1
    for k in (0, -1):
        with pytest.raises(DataError, match="k must be at least 1"):
            recommender.neighbours("v02", k=k)


def test_items_without_any_content_are_near_nothing_by_content(folder: Path) -> None:
    recommender, adapter = without_two_texts(folder)
    # With two hidden units many an item has none of them switched on, and c of 0.
    torch.nn.init.ones_(adapter.outer.bias)
    with pytest.raises(DataError, match="'v01' has no vector by content"):
        recommender.neighbours("v01")
    near = recommender.neighbours("v02", k=N_ITEMS)
    assert near.height == N_ITEMS - 3
    assert not {"v01", "v02", "v04"} & set(near["item_id"])
    of_new = recommender.neighbours_of_new(new_items(1), k=N_ITEMS)
    assert of_new.height == N_ITEMS - 2
    assert not {"v01", "v04"} & set(of_new["item_id"])


def test_items_without_content_are_no_reason_by_content(folder: Path) -> None:
    recommender, _ = without_two_texts(folder)
    (known, bare) = explain(recommender, ["v01", "v03", "v04"], ["v02", "v04"])
    assert [item for item, _ in known.nearest] == ["v03"]
    assert bare.nearest == []


def test_a_folder_without_what_its_card_names_is_refused(folder: Path) -> None:
    """A blend that is missing would else be passed over: the model alone would rank."""
    (folder / "model_card.json").write_text(json.dumps({"files": {"blend": "weights"}}))
    with pytest.raises(ArtifactError, match=r"lacks blend, which its model_card\.json names"):
        Recommender.load(folder)
    (folder / "model_card.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"model_card\.json cannot be read"):
        Recommender.load(folder)


def test_a_copy_is_whole_or_not_there(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender, target = Recommender.load(folder), tmp_path_factory.mktemp("copies") / "model"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("sicsrec.recommender.model.shutil.copyfile", full)
        with pytest.raises(OSError, match="No space left"):
            recommender.save(target)
    assert not list(target.parent.iterdir())
    assert Recommender.load(recommender.save(target)).ranks_by == "sicsrec"


@pytest.mark.parametrize("given", [5, "v03", {"v03": 1}])
def test_requests_need_lists(folder: Path, given: object) -> None:
    service = RankingService(Recommender.load(folder))
    with pytest.raises(DataError, match="request 0: history must be a list"):
        service.answer([{"history": given}])
    with pytest.raises(DataError, match="request 0: new_items must be a list"):
        service.answer([{"history": ["v03"], "new_items": given}])


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call with values of other types, as users without the tests' type checks may."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def numbered(folder: Path) -> Recommender:
    """Items "1".."N", as tables with whole numbers for ids give them."""
    frame = make_catalog().frame.select("item_index")
    frame = frame.with_columns(item_id=pl.col("item_index").cast(pl.String))
    frame.write_parquet(folder / "items.parquet")
    return Recommender.load(folder)


@pytest.mark.usefixtures("unchecked")
def test_whole_numbers_are_ids(numbered: Recommender) -> None:
    expected = numbered.recommend(["3", "4"], k=4)
    for history in ([3, 4], np.array([3, 4]), pl.Series([3, 4])):
        assert numbered.recommend(history, k=4).equals(expected)  # type: ignore[arg-type]
    assert set(numbered.recommend([3], only=[1, 2])["item_id"]) == {"1", "2"}
    assert numbered.neighbours(3).equals(numbered.neighbours("3"))
    assert numbered.knows(3)
    assert numbered.indices_of([3]).tolist() == [3]
    vectors = new_items(1)
    new = NewItemVectors((99,), vectors.matrices, vectors.present)  # type: ignore[arg-type]
    assert numbered.recommend([3], new=new, only=[99])["item_id"].to_list() == ["99"]


@pytest.mark.parametrize("exported", ["NFC", "NFD"])
def test_ids_meet_in_every_form_of_unicode(folder: Path, exported: str) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    items = pl.read_parquet(folder / "items.parquet").with_columns(
        item_id=pl.col("item_id").str.replace("v03", unicodedata.normalize(exported, "é"))
    )
    items.write_parquet(folder / "items.parquet")
    recommender = Recommender.load(folder)
    expected = recommender.recommend([composed, "v04"], k=4)
    for history in ([decomposed, "v04"], (composed, "v04")):
        assert recommender.recommend(history, k=4).equals(expected)
        table = pl.DataFrame({"user_id": [decomposed] * 2, "item_id": history})
        many = pl.concat(recommender.recommend_many(table, k=4))
        assert many["item_id"].equals(expected["item_id"])
        assert set(many["user_id"]) == {composed}
    assert recommender.knows(decomposed)
    assert recommender.recommend(["v04"], only=[decomposed])["item_id"].to_list() == [composed]
    vectors = new_items(1)
    new = NewItemVectors((decomposed,), vectors.matrices, vectors.present)
    with pytest.raises(DataError, match="ids that the model knows already"):
        recommender.recommend(["v04"], new=new)
    users = pl.Series([unicodedata.normalize(exported, "é")])
    histories = recommender.histories({"u": [composed, "v04"]})
    service = RankingService(recommender, Histories(users, histories.offsets, histories.items))
    requests = [{"user_id": composed}, {"user_id": decomposed}, {"history": [decomposed, "v04"]}]
    for answer in service.answer(requests, k=4):
        assert answer["item_ids"] == expected["item_id"].to_list()
        assert not answer["unknown_items"]


@pytest.mark.parametrize(
    "histories",
    [
        pl.DataFrame({"user_id": [5, 5, 6], "item_id": [3, 4, 1]}),
        {5: [3, 4], 6: ["1"]},
        [(5, ["3", 4]), ("6", [1])],
    ],
)
def test_many_histories_may_hold_whole_numbers(numbered: Recommender, histories: Any) -> None:
    expected = pl.concat(numbered.recommend_many({"5": ["3", "4"], "6": ["1"]}))
    assert pl.concat(numbered.recommend_many(histories)).equals(expected)
    assert numbered.histories(histories).user_ids.to_list() == ["5", "6"]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrong", [1.0, None, True, b"1", float("nan")])
@pytest.mark.parametrize(
    "call",
    [
        lambda found, wrong: found.recommend(["v01", wrong]),
        lambda found, wrong: found.recommend(["v01"], only=["zz", wrong]),
        lambda found, wrong: list(found.recommend_many({"u": ["v01", wrong]})),
        lambda found, wrong: list(found.recommend_many([(wrong, ["v01"])])),
        lambda found, wrong: found.neighbours(wrong),
        lambda found, wrong: found.knows(wrong),
    ],
)
def test_other_ids_are_refused(
    folder: Path, call: Callable[[Recommender, object], object], wrong: object
) -> None:
    with pytest.raises(DataError, match="ids are strings or whole numbers; found"):
        call(Recommender.load(folder), wrong)


@pytest.mark.parametrize("column", [[1.0], [None], [True]])
@pytest.mark.parametrize("name", ["user_id", "item_id"])
def test_tables_of_other_ids_are_refused(folder: Path, name: str, column: list[object]) -> None:
    table = pl.DataFrame({"user_id": ["u"], "item_id": ["v01"]} | {name: column})
    with pytest.raises(DataError, match=f"found .* in the column {name}"):
        list(Recommender.load(folder).recommend_many(table))


@pytest.mark.parametrize("history", ["v03", 5, None, {"v03", "v04"}, {"v03": 1}])
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_sequence_is_no_history_of_many(folder: Path, history: Any) -> None:
    recommender = Recommender.load(folder)
    with pytest.raises(DataError, match="history of user 'u' must be a sequence of item ids"):
        list(recommender.recommend_many({"u": history}))
    with pytest.raises(DataError, match="history must be a sequence of item ids"):
        recommender.recommend(history)


@pytest.mark.parametrize(
    "histories",
    [
        [("1", ["v01"]), ("2", ["v02"]), ("1", ["v03"])],
        {1: ["v01"], 2: ["v02"], "1": ["v03"]},
    ],
)
def test_a_user_given_twice_is_refused_by_name(folder: Path, histories: Any) -> None:
    recommender = Recommender.load(folder)
    with pytest.raises(DataError, match="the user '1' more than once"):
        list(recommender.recommend_many(histories, chunk_users=1))
    with pytest.raises(DataError, match="the user '1' more than once"):
        recommender.histories(histories)
    if isinstance(histories, list):
        with pytest.raises(DataError, match="the user '1' more than once"):
            list(recommender.recommend_many(iter(histories)))


def test_all_rows_of_a_user_in_a_table_are_one_history(folder: Path) -> None:
    recommender = Recommender.load(folder)
    table = pl.DataFrame({"user_id": ["a", "b", "a"], "item_id": ["v03", "v01", "v04"]})
    [found] = recommender.recommend_many(table, k=3)
    alone = recommender.recommend_many({"a": ["v03", "v04"]}, k=3)
    assert found.filter(user_id="a")["item_id"].equals(next(alone)["item_id"])
