import polars as pl
import pytest

from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.schema import PAIRS, check_schema
from sicsrec.errors import DataError
from sicsrec.sampling.protocol import Answer, Unreadable
from sicsrec.steps import get_step, sample_pairs
from sicsrec.steps.runner import step_identity
from tests.unit.stage_one import make_catalog
from tests.unit.steps.stage_one_store import HISTORIES, World


@pytest.mark.parametrize("anchors", ["per_item", "per_user"])
@pytest.mark.parametrize("vectors", ["tfidf", "encoder"])
def test_pairs_come_from_training_histories(tmp_path, anchors, vectors):
    judge = {"vectors": vectors, "min_positive": 0.15, "max_negative": 0.05}
    world = World(tmp_path, sample_pairs={"judge": judge, "anchors": anchors})
    report = world.run("sample_pairs")
    pairs = check_schema(world.pairs(), PAIRS, "pairs")
    assert report.rows == pairs["positive_id"].count() > 0
    assert set(pairs["source"]) == {"similarity"}
    for anchor, positive, negatives, _ in pairs.rows():
        shared = set().union(*(set(items) for items in HISTORIES.values() if anchor in items))
        assert {positive, *negatives} - {None} <= shared - {anchor, "i7"}
        assert positive not in negatives
    assert "i7" not in pairs["anchor_id"]  # it has no text
    content = report.content
    asked = sum((content["answers"]["pair"], content["answers"]["none"]))
    assert asked == pairs.height
    assert content["anchors"] == asked + sum(content["not_asked"].values())
    assert content["not_asked"]["anchor_without_text"] == 1
    assert world.refs["sample_pairs/pairs"].sees == ("train",)


def test_similar_titles_become_pairs_and_are_shown(tmp_path):
    world = World(tmp_path)
    world.run("sample_pairs")
    positives = dict(world.pairs().select("anchor_id", "positive_id").rows())
    assert positives["i0"] == "i1"
    assert positives["i2"] == "i3"
    assert positives["i9"] is None or positives["i9"] in {"i0", "i1", "i2"}
    shown = world.recorder.tables["sample_pairs"]
    row = shown.filter(pl.col("anchor_id") == "i0").row(0, named=True)
    assert (row["anchor_title"], row["positive_title"]) == ("red cat film", "red cat film two")
    assert world.recorder.metrics["pairs/n_pairs"] == sum(
        positive is not None for positive in positives.values()
    )


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    first, second = World(tmp_path / "a"), World(tmp_path / "b")
    first.run("sample_pairs")
    second.run("sample_pairs")
    assert first.refs["sample_pairs/pairs"].digest == second.refs["sample_pairs/pairs"].digest


class Careless:
    """Names the anchor, then nothing readable, then something usable."""

    name = "careless"

    def answer(self, questions):
        answers = [Answer(0), Unreadable("no"), Answer(1)]
        return [answers[row % 3] for row in range(len(questions))]


def test_unusable_answers_are_counted_and_kept_out(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_pairs, "_make_judge", lambda *_: Careless())
    world = World(tmp_path, sample_pairs={"max_unusable_share": 0.9})
    content = world.run("sample_pairs").content
    assert set(content["answers"]["unusable"]) == {"names_anchor", "unreadable"}
    n_unusable = sum(content["answers"]["unusable"].values())
    assert world.pairs().height == content["answers"]["pair"]
    assert content["unusable_share"] == pytest.approx(
        n_unusable / (n_unusable + world.pairs().height), abs=1e-6
    )


def test_too_many_unusable_answers_stop_the_step_with_their_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_pairs, "_make_judge", lambda *_: Careless())
    world = World(tmp_path)
    with pytest.raises(DataError, match=r"names_anchor.*max_unusable_share"):
        sample_pairs.run(world.context("sample_pairs"))
    assert world.recorder.metrics["pairs/unusable_share"] > 0.5


def test_other_weights_of_a_local_encoder_are_another_judge(tmp_path):
    judge = {"vectors": "encoder", "min_positive": 0.15, "max_negative": 0.05}
    keys = []
    for name in ("a", "b"):
        world = World(tmp_path, sample_pairs={"judge": judge})
        (tmp_path / "bert" / "notes.txt").write_text(name)
        keys.append(step_identity(get_step("sample_pairs"), world.config, world.refs))
    assert keys[0] != keys[1]
    assert keys[0]["config"] == keys[1]["config"]


def test_no_texts_at_all_is_an_error(tmp_path):
    world = World(tmp_path, catalog=make_catalog([None] * 10))
    with pytest.raises(DataError, match="text_fields"):
        world.run("sample_pairs")


@pytest.mark.parametrize("kind", ["co_occurrence", "random"])
def test_judges_without_texts_give_a_pair_for_every_question(tmp_path, kind):
    world = World(tmp_path, sample_pairs={"judge": {"kind": kind}})
    content = world.run("sample_pairs").content
    assert content["answers"]["pair"] == world.pairs().height > 0
    assert set(world.pairs()["source"]) == {kind}
    # It has a cover and no text, which they do not miss.
    assert "i7" in world.pairs()["anchor_id"]
    assert "anchor_without_text" not in content["not_asked"]
    assert "language_model" not in content


@pytest.mark.parametrize("modality", ["text", "image"])
def test_what_the_next_step_has_nothing_to_encode_of_is_told_before_anybody_is_asked(
    tmp_path, monkeypatch, modality
):
    monkeypatch.setattr(sample_pairs, "_make_judge", lambda *_: pytest.fail("a judge was made"))
    catalog = make_catalog([None if modality == "text" else "a title"] * 10)
    if modality == "image":
        catalog = ItemCatalog(catalog.frame.with_columns(image_status=pl.lit("missing")))
    world = World(tmp_path, catalog=catalog, sample_pairs={"judge": {"kind": "co_occurrence"}})
    with pytest.raises(DataError, match=f"{modality}_encoder is set but no item has a usable"):
        world.run("sample_pairs")
