import json
import unicodedata
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sicsrec.artifacts import ArtifactStore
from sicsrec.errors import ArtifactMissingError, ConfigError, DataError
from sicsrec.steps.answers import answer as answer_asked
from sicsrec.steps.finished import newest_export
from sicsrec.steps.questions import Question, look_into
from tests.unit.recommender_parts import export_tiny
from tests.unit.steps.tiny_store import TinyStore, histories_by_user


def answer(question: Question, store: ArtifactStore, **named: Any) -> dict[str, Any]:
    return answer_asked(look_into(question, store, **named))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return export_tiny(tmp_path_factory.mktemp("answers"), "blend")[0]


def test_a_user_gets_what_the_history_gets(tiny: TinyStore) -> None:
    history = tuple(histories_by_user()["u17"])
    by_user = answer(Question(user="u17", k=3, explain=True), tiny.store)
    by_history = answer(Question(history=history, k=3, explain=True), tiny.store, dataset="tiny")
    assert by_user["recommendations"] == by_history["recommendations"]
    assert [row["item_id"] for row in by_user["history"]] == list(history)
    assert json.loads(json.dumps(by_user)) == by_user
    folder = Path(by_user["model"])
    by_folder = answer(Question(history=history, k=3, explain=True), tiny.store, model=folder)
    assert by_folder == by_history


def test_a_user_is_found_in_every_form_of_unicode(tmp_path: Path) -> None:
    tiny, export = export_tiny(tmp_path, "sicsrec")
    named = pl.col("user_id").str.replace("u17", "é")
    log = pl.read_parquet(export.interactions_file).with_columns(named)
    log.sort("user_id", "position").write_parquet(export.interactions_file)
    for form in ("NFC", "NFD"):
        found = answer(Question(user=unicodedata.normalize(form, "é")), tiny.store)
        assert [row["item_id"] for row in found["history"]] == list(histories_by_user()["u17"])


def test_unknown_items_of_a_history_are_shown_as_such(tiny: TinyStore) -> None:
    found = answer(Question(history=("v03", "nope"), k=2, explain=True), tiny.store)
    assert [row["known"] for row in found["history"]] == [True, False]
    assert len(found["recommendations"]) == 2


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question(), "give a user, a history"),
        (Question(user="u17", history=("v01",)), "not both"),
        (Question(history=()), "history is empty"),
        (Question(user="u17", k=0), "k must be at least 1"),
    ],
)
def test_questions_without_an_answer(tiny: TinyStore, question: Question, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        answer(question, tiny.store)


def test_unknown_users_datasets_exports_and_files(tiny: TinyStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no user 'u99'; ids look like 'u00', 'u01'"):
        answer(Question(user="u99"), tiny.store)
    with pytest.raises(DataError, match="none of the 1 items"):
        answer(Question(history=("x",)), tiny.store)
    with pytest.raises(ArtifactMissingError, match="there are exports of tiny"):
        newest_export(tiny.store, "other")
    with pytest.raises(ArtifactMissingError, match="with the key 'ffff'"):
        newest_export(tiny.store, "tiny", "ffff")
    with pytest.raises(ArtifactMissingError, match="run the pipeline first"):
        newest_export(ArtifactStore(tmp_path))
    with pytest.raises(ConfigError, match="knows no users"):
        answer(Question(user="u17"), tiny.store, model=newest_export(tiny.store).model_folder)
    text = tmp_path / "a.txt"
    text.write_text("a film")
    with pytest.raises(DataError, match="holds no encoders"):
        answer(Question(new_item=(text,)), tiny.store)
    with pytest.raises(DataError, match="is a second"):
        answer(Question(new_item=(text, text)), tiny.store)
    with pytest.raises(DataError, match="neither a text"):
        answer(Question(new_item=(Path(__file__),)), tiny.store)
    with pytest.raises(DataError, match="there is no file"):
        answer(Question(new_item=(tmp_path / "b.txt",)), tiny.store)
