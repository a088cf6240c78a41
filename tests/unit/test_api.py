"""Training on tables of one's own, and new items on the folder that comes out."""

import uuid
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import sicsrec
from sicsrec.api import _configure, _write_vectors
from sicsrec.data.given_tables import as_table
from sicsrec.errors import ConfigError, DataError
from sicsrec.recommender import Recommender

TOWER = {"width": 8, "inner_width": 8, "n_layers": 1, "n_heads": 1, "max_epochs": 1}
FAST = {
    "pretrain_id": TOWER,
    "train_sicsrec": TOWER,
    "evaluate": {"n_bootstrap": 10},
    "refit": False,
}
N_ITEMS = 20


def make_tables() -> tuple[pl.DataFrame, pl.DataFrame, np.ndarray]:
    rows = [
        (f"u{user}", f"v{(user + place) % N_ITEMS}", 1_700_000_000 + place)
        for user in range(40)
        for place in range(5)
    ]
    plays = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    items = pl.DataFrame(
        {"item_id": [f"v{i}" for i in range(N_ITEMS)], "title": [f"film {i}" for i in range(20)]}
    )
    return plays, items, np.random.default_rng(0).normal(size=(N_ITEMS, 6))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    plays, items, matrix = make_tables()
    folder = tmp_path_factory.mktemp("own")
    return sicsrec.train(plays, items, {"text": matrix}, folder=folder, config=FAST, device="cpu")


def test_ten_lines_give_a_recommender_that_saves_and_loads(
    trained: Recommender, tmp_path: Path
) -> None:
    found = trained.recommend(["v1", "v2"], k=5)
    assert found.height == 5
    assert trained.ranks_by == "blend"
    assert trained.title_of("v3") == "film 3"
    again = Recommender.load(trained.save(tmp_path / "model"))
    assert again.recommend(["v1", "v2"], k=5).equals(found)


@pytest.mark.parametrize("kind", ["lazy", "pandas", "arrow"])
def test_tables_may_be_of_other_libraries(trained: Recommender, kind: str, tmp_path: Path) -> None:
    as_given = {"lazy": pl.DataFrame.lazy, "pandas": as_pandas, "arrow": pl.DataFrame.to_arrow}
    plays, items, matrix = make_tables()
    of_items = items.select("item_id").with_columns(vector=pl.Series(matrix.tolist()))
    configured = _configure(
        as_given[kind](plays),
        as_given[kind](items),
        {"text": as_given[kind](of_items)},
        tmp_path,
        None,
        FAST,
    )
    assert pl.read_parquet(tmp_path / "tables" / "interactions.parquet").equals(plays)
    assert pl.read_parquet(tmp_path / "tables" / "items.parquet").equals(items)
    written = pl.read_parquet(tmp_path / "vectors" / "text.parquet")
    assert written["vector"].to_list() == matrix.tolist()
    assert configured.dataset == "own"
    table = plays.select("user_id", "item_id")
    [expected] = trained.recommend_many(table, k=2)
    [found] = trained.recommend_many(as_given[kind](table), k=2)
    assert found.equals(expected)


def as_pandas(frame: pl.DataFrame) -> Any:
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(frame.to_dict(as_series=False))


@pytest.mark.parametrize("given", [[{"user_id": 1}], {"user_id": [1]}, pl.Series([1]), None])
def test_what_is_no_table_is_named_by_its_type(given: object) -> None:
    with pytest.raises(DataError, match=f"plays must be a table.*{type(given).__name__}"):
        as_table(given, "plays")


def test_a_second_call_makes_nothing_anew(trained: Recommender) -> None:
    plays, items, matrix = make_tables()
    assert trained.folder is not None
    root = trained.folder.parents[5]
    made = {path: path.stat().st_mtime_ns for path in root.rglob("manifest.json")}
    again = sicsrec.train(plays, items, {"text": matrix}, folder=root, config=FAST, device="cpu")
    assert again.folder == trained.folder
    assert {path: path.stat().st_mtime_ns for path in root.rglob("manifest.json")} == made


def test_vectors_are_joined_by_id_not_by_position(trained: Recommender, tmp_path: Path) -> None:
    plays, items, matrix = make_tables()
    order = np.random.default_rng(1).permutation(N_ITEMS)
    shuffled = sicsrec.train(
        plays,
        items,
        {
            "text": pl.DataFrame(
                {"item_id": [f"v{row}" for row in order], "vector": matrix[order].tolist()}
            )
        },
        folder=tmp_path,
        config=FAST,
        device="cpu",
    )
    assert shuffled.recommend(["v1", "v2"]).equals(trained.recommend(["v1", "v2"]))


def test_covers_are_read_from_any_folder_and_known_the_next_time(tmp_path: Path) -> None:
    plays, items, matrix = make_tables()
    covers = tmp_path / "my covers"
    covers.mkdir()
    for name in items["item_id"].head(5):
        Image.new("RGB", (32, 32), "teal").save(covers / f"{name}.png")

    def train(vectors: np.ndarray = matrix) -> list[Path]:
        sicsrec.train(
            plays, items, {"text": vectors}, folder=tmp_path / "own", covers=covers, config=FAST
        )
        return sorted((tmp_path / "own/artifacts/own/ingest").rglob("items.parquet"))

    [catalog] = train()
    statuses = pl.read_parquet(catalog).group_by("image_status").len().sort("len")
    assert statuses.rows() == [("ok", 5), ("missing", 15)]
    assert train() == [catalog]
    assert train(matrix + 1) == [catalog], "other vectors are no reason to read covers again"
    with pytest.raises(DataError, match="there is no folder"):
        sicsrec.train(plays, items, {"text": matrix}, folder=tmp_path, covers=tmp_path / "none")


def test_sections_are_merged_at_any_depth_and_objects_nobody_needs_are_left_out(
    tmp_path: Path,
) -> None:
    plays, items, matrix = make_tables()
    plays = plays.with_columns(stars=pl.lit(4.0), note=pl.Series([object()] * 200, dtype=pl.Object))
    changes = {"ingest": {"reader": {"rating": "stars"}, "filters": {"min_rating": 4.5}}}
    with pytest.raises(DataError, match="the filters leave nothing of 200 interactions"):
        sicsrec.train(plays, items, {"text": matrix}, folder=tmp_path, config=changes)
    odd = items.with_columns(title=pl.Series([object()] * N_ITEMS, dtype=pl.Object))
    with pytest.raises(DataError, match=r"items: \['title'\] hold Python objects; make them text"):
        sicsrec.train(plays, odd, {"text": matrix}, folder=tmp_path)
    late = plays.with_columns(timestamp=pl.Series([object()] * 200, dtype=pl.Object))
    with pytest.raises(DataError, match=r"interactions: \['timestamp'\] hold Python objects"):
        sicsrec.train(late, items, {"text": matrix}, folder=tmp_path)
    frame = items.select("item_id", vector=pl.Series([object()] * N_ITEMS, dtype=pl.Object))
    with pytest.raises(DataError, match=r"vectors\['text'\]: \['vector'\] hold Python objects"):
        sicsrec.train(plays, items, {"text": frame}, folder=tmp_path)


def test_another_kind_of_section_takes_the_place_of_the_whole(tmp_path: Path) -> None:
    plays, items, matrix = make_tables()
    changes = {"encode_items": {"source": {"kind": "encoders"}}}
    with pytest.raises(ConfigError, match="neither a text_encoder nor an image_encoder"):
        sicsrec.train(plays, items, {"text": matrix}, folder=tmp_path, config=changes)


def test_bad_input_is_named(tmp_path: Path) -> None:
    plays, items, matrix = make_tables()
    with pytest.raises(DataError, match=r"interactions lack the columns \['item_id'\]"):
        sicsrec.train(plays.drop("item_id"), items, {"text": matrix}, folder=tmp_path)
    with pytest.raises(DataError, match="one row for each of the 20 items"):
        sicsrec.train(plays, items, {"text": matrix[:3]}, folder=tmp_path)
    with pytest.raises(DataError, match="text or image"):
        sicsrec.train(plays, items, {"sound": matrix}, folder=tmp_path)
    with pytest.raises(DataError, match=r"vectors must be a mapping from text or image.*ndarray"):
        _write_vectors(matrix, items, tmp_path)
    with pytest.raises(ConfigError, match="neither a text_encoder nor an image_encoder"):
        sicsrec.train(plays, items, folder=tmp_path)
    with pytest.raises(ConfigError, match=r"train_sicsrec\.epochs"):
        sicsrec.train(
            plays, items, {"text": matrix}, folder=tmp_path, config={"train_sicsrec": {"epochs": 1}}
        )


@pytest.mark.parametrize("ids", [[1, 2], [1.0, 2.0], [" 1", "2 "]])
def test_vectors_are_written_with_the_ids_that_items_are_read_with(
    tmp_path: Path, ids: list[object]
) -> None:
    items = pl.DataFrame({"item_id": ids, "title": ["a", "b"]})
    table = pl.DataFrame({"item_id": ids, "vector": [[0.0, 1.0], [1.0, 0.0]]})
    for vectors in (table, [[0.0, 1.0], [1.0, 0.0]]):
        files = _write_vectors({"text": vectors}, items, tmp_path)
        written = pl.read_parquet(files["text"])
        assert written["item_id"].to_list() == ["1", "2"]
        assert written["vector"].to_list() == [[0.0, 1.0], [1.0, 0.0]]


def test_a_row_that_ingest_passes_over_has_no_vector(tmp_path: Path) -> None:
    items = pl.DataFrame({"item_id": ["1", "2", "1", None, ""], "title": list("abcde")})
    rows = [[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]]
    files = _write_vectors({"text": rows}, items, tmp_path)
    written = pl.read_parquet(files["text"])
    assert written["item_id"].to_list() == ["1", "2"]
    assert written["vector"].to_list() == rows[:2]


def test_vectors_that_are_no_matrix_are_named(tmp_path: Path) -> None:
    items = pl.DataFrame({"item_id": ["1", "2"], "title": ["a", "b"]})
    with pytest.raises(DataError, match=r"vectors\['text'\] is no matrix of numbers"):
        _write_vectors({"text": [[0.0, 1.0], [1.0]]}, items, tmp_path)


def test_a_tensor_that_wants_gradients_is_named(tmp_path: Path) -> None:
    weight = torch.nn.Embedding(N_ITEMS, 3).weight
    with pytest.raises(DataError, match=r"vectors\['text'\] is no matrix of numbers.*detach"):
        _write_vectors({"text": weight}, make_tables()[1], tmp_path)


@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_ids_that_have_no_text_are_named_by_their_type(tmp_path: Path, column: str) -> None:
    plays, items, _ = make_tables()
    values = [uuid.uuid4() for _ in range(plays.height)]
    for odd in (as_pandas(plays).assign(**{column: values}), plays.with_columns(
        pl.Series(column, [value.bytes for value in values])
    )):  # fmt: skip
        with pytest.raises(DataError, match=f"interactions: .*'{column}'.*make (them|it) text"):
            _configure(odd, items, None, tmp_path, None, {})
    late = plays.with_columns(timestamp=pl.duration(seconds=1))
    with pytest.raises(DataError, match="'timestamp' holds values of the type Duration"):
        _configure(late, items, None, tmp_path, None, {})


def test_the_column_that_stops_a_table_of_pandas_is_named(tmp_path: Path) -> None:
    plays, items, _ = make_tables()
    mixed = as_pandas(plays).assign(note=[1, "a"] * (plays.height // 2))
    with pytest.raises(DataError, match="interactions: the column 'note' of the pandas"):
        _configure(mixed, items, None, tmp_path, None, {})


def test_wrong_arguments_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    plays, items, _ = make_tables()
    with pytest.raises(ConfigError, match=r"config must be a mapping of sections.*got str"):
        _configure(plays, items, None, tmp_path, None, "my.yaml")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"seed: .*less than"):
        _configure(plays, items, None, tmp_path, None, {"seed": 2**63})
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"the folder .*file cannot be used"):
        _configure(plays, items, None, tmp_path / "file", None, {})


def test_importing_the_package_loads_nothing_heavy() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        sicsrec.fit  # noqa: B018


def test_a_folder_whose_name_is_not_in_utf8_is_named(tmp_path: Path) -> None:
    tables = {"interactions": pl.DataFrame({"user_id": ["u"], "item_id": ["a"]})}
    tables["items"] = pl.DataFrame({"item_id": ["a"], "title": ["A"]})
    with pytest.raises(ConfigError, match=r"folder is .*plat\\xe9, whose name is not in UTF-8"):
        sicsrec.train(**tables, folder=tmp_path / "plat\udce9")
