"""Where the item embeddings of step 1 start, and what items that training never meets keep."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from sicsrec.data.sequences import Histories
from sicsrec.data.split import ValidPart, leave_one_out
from sicsrec.data.vectors import read_vectors
from sicsrec.evaluation.ranking import RankingSet
from sicsrec.models.id_encoder import IdEncoder
from sicsrec.models.item_start import content_start
from sicsrec.models.storage import load_model
from sicsrec.steps import get_step, inputs_of
from sicsrec.steps.runner import step_identity
from sicsrec.training.job import Validation
from tests.unit.steps.stage_two_store import TOWER, StageTwoWorld
from tests.unit.steps.tiny_store import make_catalog, make_interactions

CONTENT = {"item_start": {"kind": "content", "std": 0.2}}
STEPS = ("pretrain_id", "train_sicsrec")
NEVER_WATCHED, TARGET_ONLY = "v12", "v11"


def make_split():
    """A log without one item, and with another one only where validation targets are."""
    log = make_interactions().filter(~pl.col("item_id").is_in([NEVER_WATCHED, TARGET_ONLY]))
    is_target = pl.col("position").rank(descending=True).over("user_id") == 2
    is_chosen = pl.col("user_id").str.slice(1).cast(pl.Int32) % 3 == 2
    item = pl.when(is_target & is_chosen).then(pl.lit(TARGET_ONLY)).otherwise(pl.col("item_id"))
    return leave_one_out(log.with_columns(item.alias("item_id")))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = StageTwoWorld(tmp_path_factory.mktemp("content"), split=make_split(), pretrain=CONTENT)
    for step in STEPS:
        world.run(step)
    return world


def place(item: str) -> int:
    return make_catalog().item_ids.to_list().index(item)


def table(world, output: str) -> torch.Tensor:
    model = load_model(world.path(output))
    encoder = getattr(model, "id_encoder", model)
    return encoder.item_embedding.weight[1:].detach()


def expected_start(world) -> np.ndarray:
    section = world.config.pretrain_id
    vectors = [read_vectors(world.path("encode_items/vectors"), "text", make_catalog())]
    return content_start(
        vectors, section.width, std=0.2, whitening=section.item_start.whitening,
        rng=np.random.default_rng([world.config.seed, 0]),
    ).embeddings  # fmt: skip


@pytest.mark.parametrize("output", [f"{s}/{o}" for s in STEPS for o in ("model", "refit")])
def test_what_training_never_meets_keeps_its_start_and_the_rest_learns(world, output):
    start, found = expected_start(world), table(world, output).numpy()
    # A refit is told the validation targets.
    unmet = [NEVER_WATCHED] if output.endswith("refit") else [NEVER_WATCHED, TARGET_ONLY]
    rows = [place(item) for item in unmet]
    np.testing.assert_array_equal(found[rows], start[rows])
    moved = np.abs(np.delete(found - start, rows, axis=0)).max(axis=1)
    assert (moved > 1e-4).all()


def test_the_report_and_a_message_say_what_embeddings_are_made_of(tmp_path, caplog):
    world = StageTwoWorld(tmp_path, pretrain=CONTENT | {"max_epochs": 1})
    with caplog.at_level("INFO", logger="sicsrec.steps.pretrain_id"):
        report = world.run("pretrain_id").content["item_start"]
    assert "at 4 components of the items' vectors, 100 % of their variance; 0 items" in caplog.text
    assert report == {
        "components": 4, "explained_share": pytest.approx(1.0), "items_without_content": 0
    }  # fmt: skip


def test_random_embeddings_read_no_vectors_and_their_spread_can_be_set(tmp_path):
    plain, wide = (
        StageTwoWorld(
            tmp_path / str(std), pretrain={"item_start": {"std": std}, "learning_rate": 1e-9}
        )
        for std in (0.02, 0.1)
    )
    for world in (plain, wide):
        names = {entry.name for entry in inputs_of(get_step("pretrain_id"), world.config)}
        assert "encode_items/vectors" not in names
        assert "item_start" not in world.run("pretrain_id").content
    torch.testing.assert_close(
        table(wide, "pretrain_id/model"),
        5 * table(plain, "pretrain_id/model"),
        rtol=1e-4,
        atol=1e-6,
    )


def test_the_key_depends_on_vectors_only_where_they_are_read(tmp_path):
    def key(world, **changes):
        vectors = world.refs["encode_items/vectors"]
        other = world.refs | {"encode_items/vectors": replace(vectors, **changes)}
        return step_identity(get_step("pretrain_id"), world.config, other)

    def worlds(**changes):
        random = StageTwoWorld(tmp_path / f"r{len(changes)}", **changes)
        return random, StageTwoWorld(tmp_path / f"c{len(changes)}", pretrain=CONTENT, **changes)

    (random, content), (random_text, content_text) = (
        worlds(),
        worlds(sicsrec={"modalities": ["text"]}),
    )
    assert key(random) == key(random, digest="other") == key(random_text)
    assert key(content) != key(content, digest="other")
    assert key(content) != key(content_text), "they are made of these"


@pytest.mark.parametrize("step", STEPS)
def test_validation_chooses_by_the_model_that_is_kept(world, step):
    report = json.loads((world.path(f"{step}/model").parents[1] / "report.json").read_text())
    catalog = make_catalog()
    targets = RankingSet.from_held_out(ValidPart.read(world.path("split/valid")), catalog)
    assert (targets.targets == place(TARGET_ONLY) + 1).sum() > 1
    found = Validation(targets, (5, 10), remove_seen=False)(load_model(world.path(f"{step}/model")))
    assert found == pytest.approx(report["content"]["valid"])


def test_an_item_without_vectors_that_training_never_meets_is_trained_like_any_other():
    encoder = IdEncoder(n_items=4, dropout=0.0, item_start="content", **TOWER)
    encoder.start_items_at(torch.ones(4, 8), torch.tensor([True, True, False, True]))
    train = Histories(
        pl.Series(["a", "b"]), np.array([0, 2, 3]), np.array([1, 2, 4], dtype=np.int32)
    )
    ((table, rows),) = encoder.unread_rows(train)
    assert table is encoder.item_embedding.weight
    # Of item 4 there is one history of one item, which trains nothing; item 3 has no vectors.
    assert rows.tolist() == [False, False, False, False, True]


def test_a_model_from_random_numbers_is_described_as_before(world, tmp_path):
    random = StageTwoWorld(tmp_path, max_epochs=1)
    random.run("pretrain_id")
    described = json.loads((random.path("pretrain_id/model") / "config.json").read_text())
    assert "item_start" not in described["settings"]
    described = json.loads((world.path("pretrain_id/model") / "config.json").read_text())
    assert described["settings"]["item_start"] == "content"


@pytest.mark.slow
def test_two_processes_keep_what_training_never_meets(tmp_path, world):
    other = StageTwoWorld(tmp_path, split=make_split(), pretrain=CONTENT, refit=False)
    other.run("pretrain_id", n_processes=2)
    never = place(NEVER_WATCHED)
    one, two = table(world, "pretrain_id/model"), table(other, "pretrain_id/model")
    assert torch.equal(one[never], two[never])
    assert not torch.equal(one, torch.from_numpy(expected_start(world)))
