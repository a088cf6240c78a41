"""Files for other programs give what the recommender gives."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import faiss
import numpy as np
import onnxruntime
import polars as pl
import pytest

from sicsrec.data.logged_histories import LoggedHistories
from sicsrec.errors import ConfigError, DataError
from sicsrec.recommender import Recommender
from sicsrec.recommender.explanations import explain
from sicsrec.recommender.files import _folder_within, write_files
from sicsrec.steps.answers import answer
from sicsrec.steps.export_files import export_files
from sicsrec.steps.finished import FinishedExport
from sicsrec.steps.questions import Question, look_into
from tests.flows.dying import Death, arm
from tests.unit.recommender_parts import HISTORY, export_tiny
from tests.unit.steps.tiny_store import N_ITEMS, TinyStore


@pytest.fixture(scope="module", params=["blend", "sicsrec"])
def finished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TinyStore, FinishedExport]:
    return export_tiny(tmp_path_factory.mktemp(request.param) / "artifacts", request.param)


def test_tables_hold_the_pipelines_own_recommendations(finished, tmp_path: Path) -> None:
    tiny, export = finished
    own = tiny.store.open(tiny.refs["export/recommendations"]).path("recommendations.parquet")
    (parquet,) = export_files(export, "parquet", tmp_path, k=5)
    assert pl.read_parquet(parquet).equals(pl.read_parquet(own))
    (lines,) = export_files(export, "jsonl", tmp_path, k=5)
    read = [json.loads(line) for line in lines.read_text().splitlines()]
    wanted = pl.read_parquet(own).group_by("user_id", maintain_order=True).agg("item_id")
    assert [(row["user_id"], row["item_id"]) for row in read] == wanted.rows()


def test_what_the_export_keeps_is_kept_everywhere(tmp_path: Path) -> None:
    tiny, export = export_tiny(tmp_path / "artifacts", "sicsrec", remove_seen=False)
    own = pl.read_parquet(
        tiny.store.open(tiny.refs["export/recommendations"]).path("recommendations.parquet")
    )
    watched = pl.read_parquet(export.interactions_file).select("user_id", "item_id")
    assert own.join(watched, on=["user_id", "item_id"], how="semi").height
    (parquet,) = export_files(export, "parquet", tmp_path / "files")
    assert pl.read_parquet(parquet).equals(own)
    told = answer(look_into(Question(user="u17", k=5), tiny.store))["recommendations"]
    assert [row["item_id"] for row in told] == own.filter(user_id="u17")["item_id"].to_list()


def test_vectors_and_index_give_the_models_own_scores(finished, tmp_path: Path) -> None:
    export = finished[1]
    recommender = Recommender.load(export.model_folder)
    export_files(export, "npy", tmp_path, k=5)
    items, users = np.load(tmp_path / "items.npy"), np.load(tmp_path / "users.npy")
    ids = pl.read_parquet(tmp_path / "user_ids.parquet")["user_id"].to_list()
    history = recommender.histories({"u17": export.history_of("u17")})
    scores = recommender.model.score(history).numpy()[0]
    np.testing.assert_allclose(users[ids.index("u17")] @ items.T, scores, rtol=1e-4, atol=1e-5)
    export_files(export, "faiss", tmp_path, k=5)
    index = faiss.read_index(str(tmp_path / "items.faiss"))
    found, indices = index.search(users[ids.index("u17")][None], 3)
    np.testing.assert_allclose(found[0], np.sort(scores)[::-1][:3], rtol=1e-4, atol=1e-5)
    assert indices[0].tolist() == (np.argsort(-scores)[:3] + 1).tolist()


@pytest.mark.parametrize(
    "finished", ["sicsrec", pytest.param("blend", marks=pytest.mark.slow)], indirect=True
)
def test_onnx_gives_the_models_scores_for_histories_of_any_length(finished, tmp_path: Path) -> None:
    export = finished[1]
    # Without the checks of shapes that tests put around the library: they are no part of a network.
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from flows.cli import app; app()"),
            *("export", "--format", "onnx", "--to", str(tmp_path)),
        ],
        env=os.environ | {"SICSREC_HOME": str(export.store.root.parent), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    path = tmp_path / "model.onnx"
    assert done.stdout.split() == [str(tmp_path / "item_ids.json"), str(path)]
    assert json.loads((tmp_path / "item_ids.json").read_text())[0] == "v01"
    recommender = Recommender.load(export.model_folder)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    histories = {f"u{n}": [f"v{1 + (n + i) % N_ITEMS:02d}" for i in range(n)] for n in range(1, 7)}
    expected = recommender.model.score(recommender.histories(histories)).numpy()
    padded = np.zeros((6, 6), dtype=np.int64)
    for row, items in enumerate(histories.values()):
        padded[row, : len(items)] = recommender.indices_of(items)
    (scores,) = session.run(["scores"], {"items": padded})
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    (one,) = session.run(["scores"], {"items": padded[1:2, :2]})
    np.testing.assert_allclose(one, expected[1:2], rtol=1e-4, atol=1e-5)


def export_and_die(export: FinishedExport, folder: Path) -> None:
    """Die just before the first file is put in its place."""
    arm(Death(under=str(folder), pattern="os.rename .*jsonl"))
    export_files(export, "jsonl", folder)


def test_what_a_killed_export_left_goes_with_the_next(tmp_path: Path) -> None:
    _, export = export_tiny(tmp_path / "artifacts", "sicsrec")
    folder = tmp_path / "files"
    dying = multiprocessing.get_context("spawn").Process(
        target=export_and_die, args=(export, folder)
    )
    dying.start()
    dying.join()
    assert dying.exitcode == -signal.SIGKILL
    assert [path.name for path in folder.rglob("*.jsonl")] == ["recommendations.jsonl"]
    (mine := folder / ".sicsrec-mine").mkdir()
    with _folder_within(folder) as living:
        export_files(export, "jsonl", folder)
        assert {*folder.iterdir()} == {folder / "recommendations.jsonl", living.parent, mine}
    assert {*folder.iterdir()} == {folder / "recommendations.jsonl", mine}


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_users_for_whom_nothing_is_left_are_counted(
    kind: Literal["parquet", "jsonl"], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export = export_tiny(tmp_path / "artifacts", "sicsrec")[1]
    recommender = Recommender.load(export.model_folder)
    of_all = [("all-1", item) for item in recommender.item_ids]
    of_all += [("all-2", item) for item in recommender.item_ids]
    log = tmp_path / "log.parquet"
    rows = [*of_all, *(("some", item) for item in HISTORY)]
    pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").write_parquet(log)
    histories = LoggedHistories(log, recommender.item_ids)
    (path,) = write_files(recommender, histories, kind, tmp_path, k=2, chunk_users=1)
    read = pl.read_parquet(path) if kind == "parquet" else pl.read_ndjson(path)
    assert set(read["user_id"]) == {"some"}
    assert "2 of 3 users get no recommendations" in caplog.text
    caplog.clear()
    write_files(recommender, histories, kind, tmp_path, k=2, remove_seen=False)
    assert not caplog.records


def test_an_unknown_format_is_named(finished, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one of parquet, jsonl, npy, faiss, onnx"):
        export_files(finished[1], "csv", tmp_path, k=5)


@pytest.mark.parametrize("history", [[], ["new"]])
def test_a_history_that_says_nothing_explains_nothing(finished, history: list[str]) -> None:
    recommender = Recommender.load(finished[1].model_folder)
    with pytest.raises(DataError, match=f"none of the {len(history)} items"):
        explain(recommender, history, ["v01"])


def means_of_parts(recommender: Recommender) -> dict[str, float]:
    """Return the mean of every part of the scores of :data:`HISTORY` over all items."""
    parts = [entry.parts for entry in explain(recommender, HISTORY, recommender.item_ids)]
    return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}


def test_an_item_is_not_what_it_is_near_itself(finished) -> None:
    recommender = Recommender.load(finished[1].model_folder)
    (explained,) = explain(recommender, HISTORY, HISTORY[:1])
    assert {item for item, _ in explained.nearest} == set(HISTORY[1:])


def test_no_known_user_is_no_rows(tmp_path: Path) -> None:
    export = export_tiny(tmp_path / "artifacts", "sicsrec")[1]
    recommender = Recommender.load(export.model_folder)
    log = tmp_path / "log.parquet"
    pl.DataFrame({"user_id": ["u"], "item_id": ["new"]}).write_parquet(log)
    write_files(recommender, LoggedHistories(log, recommender.item_ids), "npy", tmp_path)
    assert np.load(tmp_path / "users.npy").shape[0] == 0
    assert pl.read_parquet(tmp_path / "user_ids.parquet").schema == {"user_id": pl.String}


def test_parts_of_a_score_add_up_to_it(finished) -> None:
    recommender = Recommender.load(finished[1].model_folder)
    found = recommender.recommend(HISTORY, 4)
    explained = explain(recommender, HISTORY, found["item_id"].to_list())
    for row, entry in zip(found.to_dicts(), explained, strict=True):
        assert sum(entry.parts.values()) == pytest.approx(row["score"], rel=1e-4, abs=1e-5)
        means = means_of_parts(recommender)
        lift = {name: value - means[name] for name, value in entry.parts.items()}
        assert entry.spoke == max(lift, key=lift.__getitem__)
        assert {item for item, _ in entry.nearest} == set(HISTORY)
        similarities = [similarity for _, similarity in entry.nearest]
        assert similarities == sorted(similarities, reverse=True)
    names = set(explained[0].parts)
    if recommender.ranks_by == "blend":
        assert {"ID encoder", "SICSRec", "content", "transitions", "popularity"} <= names
    else:
        assert names == {"ID encoder", "content encoder", "mix decoder", "bias"}


def test_folders_whose_names_are_not_in_utf8_are_named(finished, tmp_path: Path) -> None:
    odd = tmp_path / "plat\udce9"
    shutil.copytree(finished[1].model_folder, odd)
    with pytest.raises(ConfigError, match=r"the model folder is .*plat\\xe9, whose name is not"):
        Recommender.load(odd)
    with pytest.raises(ConfigError, match=r"the folder of the files is .*plat\\xe9, whose name"):
        export_files(finished[1], "parquet", odd, k=5)
