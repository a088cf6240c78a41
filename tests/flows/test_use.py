"""``sicsrec recommend`` and ``sicsrec export`` as a person calls them on a finished export."""

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import polars as pl
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from flows.cli import app
from flows.recommend import answer_tables
from sicsrec.config import ExportConfig
from sicsrec.steps.finished import FinishedExport, newest_export
from sicsrec.steps.runner import run_step
from tests.unit.recommender_parts import with_encoders
from tests.unit.steps.tiny_store import (
    N_ITEMS,
    N_USERS,
    histories_by_user,
    make_config,
    make_tiny_store,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedExport:
    tiny = make_tiny_store(tmp_path_factory.mktemp("use") / "artifacts")
    config = with_encoders(tiny, make_config(export=ExportConfig(top_k=5, score="blend")))
    run_step("export", config, tiny.refs, tiny.store)
    return newest_export(tiny.store)


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch, finished: FinishedExport, tmp_path: Path) -> None:
    monkeypatch.setenv("SICSREC_HOME", str(finished.store.root.parent))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The folder people are in, with a text, a cover, and files that cannot be used."""
    (tmp_path / "title.txt").write_text("A reef\nat night\n", encoding="utf-8")
    (tmp_path / "second.txt").write_text("Another title")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes("Müller".encode("latin-1"))
    Image.new("RGB", (40, 40), "teal").save(tmp_path / "cover.png")
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "cover.png").read_bytes()[:60])
    (tmp_path / "film.mp4").write_bytes(b"moving pictures")
    return tmp_path


def call(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.output


def ask(*arguments: str | Path) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(call("recommend", "--json", *arguments))
    return answer


def recommended(finished: FinishedExport, user: str) -> list[tuple[str, float]]:
    folder = finished.store.open(finished.manifest.refs()["export/recommendations"]).path()
    table = pl.read_parquet(folder / "recommendations.parquet").filter(pl.col("user_id") == user)
    return table.select("item_id", "score").rows()


def test_a_user_gets_the_exported_recommendations_as_table_and_json(
    finished: FinishedExport,
) -> None:
    found = ask("--user", "u17", "--k", "5")
    rows = [(row["item_id"], row["score"]) for row in found["recommendations"]]
    own = recommended(finished, "u17")
    assert [item for item, _ in rows] == [item for item, _ in own]
    # One user alone is packed otherwise than in the step, which adds up in another order.
    assert [score for _, score in rows] == pytest.approx([score for _, score in own], abs=1e-6)
    assert [row["item_id"] for row in found["history"]] == histories_by_user()["u17"]
    text = call("recommend", "--user", "u17", "--k", "5")
    words_of_it = " ".join(text.split())
    assert "user u17: 8 items watched, oldest first" in words_of_it
    assert "recommendations, ranked by blend" in words_of_it
    lines = [line.split() for line in text.splitlines()]
    shown = [words[:2] for words in lines if words and words[0].isdigit()]
    assert shown == [[str(place + 1), item] for place, (item, _) in enumerate(rows)]


@pytest.mark.parametrize("user", ["[deleted]", "[/b]", "a[bold]b", "\\[x]"])
def test_ids_that_look_like_markup_are_shown_as_they_are(user: str) -> None:
    history = [{"item_id": "[red]1", "title": "[/red]", "known": True}]
    answer = {"user": user, "history": history, "recommendations": [], "ranks_by": "blend"}
    console = Console(file=StringIO(), width=100)
    for table in answer_tables(answer):
        console.print(table)
    assert f"user {user}: 1 items watched" in " ".join(console.file.getvalue().split())


def test_tables_show_titles_and_names_of_parts_whole_on_80_columns() -> None:
    parts = dict.fromkeys(
        ("ID encoder", "SICSRec", "content", "popularity", "watched", "transitions"), -10.25
    )
    row = {"rank": 1, "item_id": "BV1xx411c7mD", "title": "a film", "score": 1.5, "parts": parts}
    row |= {"spoke": "transitions", "nearest": []}
    history = [{"item_id": "1", "title": "b", "known": True}] * 12
    answer = {"user": "a user", "history": history, "ranks_by": "blend", "recommendations": [row]}
    console = Console(file=StringIO(), width=80)
    for table in answer_tables(answer):
        console.print(table)
    lines = [line.strip() for line in console.file.getvalue().splitlines()]
    assert "user a user: 12 items watched, the last 10, oldest first" in lines
    [heads] = [line for line in lines if "popularity" in line]
    assert "transitions" in heads


def test_long_ids_leave_room_for_words_on_80_columns() -> None:
    parts = dict.fromkeys(("ID encoder", "SICSRec", "content", "popularity", "watched"), -10.25)
    name = "0e37df36-f698-11e6-8dd4-cb9ced3df976"
    near = {"item_id": name, "title": "another film", "similarity": 0.5}
    row = {"rank": 1, "item_id": name, "title": "a film with words", "score": 1.5, "parts": parts}
    row |= {"spoke": "popularity", "nearest": [near]}
    answer = {"history": [], "ranks_by": "blend", "recommendations": [row]}
    console = Console(file=StringIO(), width=80)
    for table in answer_tables(answer):
        console.print(table)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for word in ("popularity", "content", "another", "title", "history", "words"):
        assert word in text


def test_it_is_said_when_nothing_is_left_to_recommend() -> None:
    console = Console(file=StringIO(), width=80)
    for table in answer_tables({"history": [], "ranks_by": "blend", "recommendations": []}):
        console.print(table)
    assert "There is nothing left to recommend." in console.file.getvalue()


def test_items_of_a_history_that_the_model_does_not_know_are_shown_and_left_out() -> None:
    text = call("recommend", "--history", " v03 , new-9,v04", "--k", "2")
    assert "3 items watched" in text
    assert "new-9" in text
    assert "not known to the model, left out" in text
    known = ask("--history", "v03,v04", "--k", "2")["recommendations"]
    assert ask("--history", "v03,new-9,v04", "--k", "2")["recommendations"] == known
    quoted = ask("--history", 'v03, "new,9",v04', "--k", "2")
    assert [row["item_id"] for row in quoted["history"]] == ["v03", "new,9", "v04"]
    assert quoted["recommendations"] == known


def test_explanations_say_what_spoke_and_their_parts_add_up() -> None:
    found = ask("--history", "v03,v04", "--explain", "--k", "3")
    for row in found["recommendations"]:
        assert sum(row["parts"].values()) == pytest.approx(row["score"], rel=1e-4, abs=1e-5)
        assert row["spoke"] in row["parts"]
        assert {entry["item_id"] for entry in row["nearest"]} == {"v03", "v04"}
    text = call("recommend", "--history", "v03,v04", "--explain", "--k", "3")
    for words in ("spoke for it", "nearest in the history", "parts of the scores; they add up"):
        assert words in " ".join(text.split())


def test_a_new_item_has_neighbours_and_an_audience_or_a_place(files: Path) -> None:
    found = ask("--new-item", "title.txt", "cover.png")["new_item"]
    assert found["made_of"] == ["image", "text"]
    assert found["audience"]["users"] == N_USERS
    assert len(found["near"]) == 10
    text = call("recommend", "--new-item", "title.txt", "--k", "3")
    assert "nearest to the new item, by text" in " ".join(text.split())
    assert f"of {N_USERS} users." in text
    text = call("recommend", "--new-item", "title.txt", "--history", "v03,v04")
    place = ask("--new-item", "title.txt", "--history", "v03,v04")["new_item"]["for_this_history"]
    assert f"the new item comes {place['rank']}. of {N_ITEMS - 2 + 1}" in text


def test_a_mark_of_the_encoding_is_no_part_of_a_new_items_text(files: Path) -> None:
    plain = ask("--new-item", "title.txt")["new_item"]
    (files / "title.txt").write_text("A reef\nat night\n", encoding="utf-8-sig")
    assert ask("--new-item", "title.txt")["new_item"] == plain


def test_a_model_folder_answers_without_a_store(
    finished: FinishedExport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    by_store = ask("--history", "v03,v04")["recommendations"]
    monkeypatch.setenv("SICSREC_HOME", str(tmp_path / "nothing"))
    folder = finished.model_folder
    assert ask("--history", "v03,v04", "--model", folder)["recommendations"] == by_store


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "give a user, a history, or the files of a new item"),
        ("--user u99", "dataset tiny has no user 'u99'; ids look like 'u00', 'u01', 'u02'"),
        ("--user u17 --history v01", "give a user or a history, not both"),
        ("--history nope", "none of the 1 items of the history is known to the model"),
        ("--history ,", "the history is empty; give item ids, oldest first"),
        ("--user u17 --dataset other", "there are exports of tiny"),
        ("--user u17 --export ffff", "no finished export of dataset 'tiny' with the key 'ffff'"),
        ("--history v03 --model m --dataset tiny", "give --model, or --dataset and --export"),
        ("--history v03 --model m --export abc", "give --model, or --dataset and --export"),
        ("--history v03 --model nowhere", "there is no model folder nowhere"),
        ("--new-item", "--new-item takes files"),
        ("title.txt", "--new-item takes files"),
        ("--new-item none.txt", "there is no file none.txt"),
        ("--new-item film.mp4", "film.mp4 is neither a text (.txt, .md) nor a cover"),
        ("--new-item title.txt second.txt", "second.txt is a second"),
        ("--new-item latin.txt", "latin.txt is not a text in UTF-8"),
        ("--new-item empty.txt", "every new item needs a text or a cover"),
        ("--new-item title.txt broken.jpg", "the cover of 'new item' cannot be used"),
        ("--new-item cover.png", "have none of what the model reads: text"),
    ],
)
def test_what_cannot_be_answered_is_one_clear_error(
    files: Path, arguments: str, message: str
) -> None:
    result = CliRunner().invoke(app, ["recommend", *arguments.split()])
    assert result.exit_code == 1
    check_clear(result.output, message)
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--user u99", "no user 'u99'"),
        ("--user u17 --history v01", "give a user or a history, not both"),
        ("--user u17 --dataset other", "there are exports of tiny"),
        ("--history v03 --model nowhere", "there is no model folder nowhere"),
        ("--new-item film.mp4", "film.mp4 is neither a text"),
        ("title.txt", "--new-item takes files"),
    ],
)
def test_what_is_wrong_is_said_before_torch_is_imported(
    finished: FinishedExport, files: Path, arguments: str, message: str
) -> None:
    # An import of torch, which takes seconds, would end the process with another error.
    code = "import sys; sys.modules['torch'] = None; from flows.cli import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", code, "recommend", *arguments.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    check_clear(done.stdout, message)


def check_clear(text: str, message: str) -> None:
    assert message in " ".join(text.replace("│", " ").split())
    assert "Traceback" not in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_no_recommendations_and_no_export_are_errors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["recommend", "--user", "u17", "--k", "0"])
    assert result.exit_code == 2
    assert "--k" in result.output
    monkeypatch.setenv("SICSREC_HOME", str(tmp_path / "new"))
    for command in (["recommend", "--user", "u17"], ["export"]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1
        check_clear(result.output, "there is no finished export of any dataset")
        assert "There is no such result yet" in result.output
    assert list(tmp_path.iterdir()) == []


# onnx needs a process of its own: tests/unit/test_recommender_files.py calls the command for it.
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("parquet", ["recommendations.parquet"]),
        ("jsonl", ["recommendations.jsonl"]),
        ("npy", ["item_ids.json", "items.npy", "user_ids.parquet", "users.npy"]),
        ("faiss", ["item_ids.json", "items.faiss"]),
    ],
)
def test_export_writes_the_files_it_names_and_replaces_older_ones(
    tmp_path: Path, kind: str, names: list[str]
) -> None:
    folder = tmp_path / "some" / "where"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("stays")
    (folder / names[-1]).write_text("an older one")
    text = call("export", "--format", kind, "--to", folder, "--k", "4")
    assert text.splitlines() == [str(folder / name) for name in names]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "mine.txt"])
    path = folder / names[-1]
    if kind == "parquet":
        assert pl.read_parquet(path)["rank"].max() == 4
    elif kind == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [row["user_id"] for row in rows] == sorted(histories_by_user())
    elif kind == "npy":
        assert np.load(path).shape == (N_USERS, 8)
    else:
        assert faiss.read_index(str(path)).ntotal == N_ITEMS


def test_export_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for arguments, message in (
        (("--format", "csv"), "unknown format 'csv'; one of parquet, jsonl, npy, faiss, onnx"),
        (("--to", "taken"), "the folder taken cannot be made"),
        (("--to", "/proc"), "nothing can be written to /proc"),
        (("--to", "taken/below"), "the folder taken/below cannot be made"),
        (("--dataset", "other"), "there are exports of tiny"),
    ):
        result = CliRunner().invoke(app, ["export", *arguments])
        assert result.exit_code == 1, result.output
        check_clear(result.output, message)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
