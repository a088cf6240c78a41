"""Where the item embeddings of step 1 start, and what items that training never meets keep."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from sicsrec.data.split import leave_one_out
from sicsrec.data.vectors import read_vectors
from sicsrec.models.item_start import content_start
from sicsrec.models.storage import load_model
from sicsrec.steps import get_step, inputs_of
from sicsrec.steps.runner import step_identity
from tests.unit.steps.stage_two_store import StageTwoWorld
from tests.unit.steps.tiny_store import make_catalog, make_interactions

CONTENT = {"item_start": {"kind": "content", "std": 0.2}}
STEPS = ("pretrain_id", "train_sicsrec")
NEVER_WATCHED = "v12"


def without(item: str):
    """The log without one item, which stays in the catalogue."""
    return leave_one_out(make_interactions().filter(pl.col("item_id") != item))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = StageTwoWorld(
        tmp_path_factory.mktemp("content"), split=without(NEVER_WATCHED), pretrain=CONTENT
    )
    for step in STEPS:
        world.run(step)
    return world


def table(world, output: str) -> torch.Tensor:
    model = load_model(world.path(output))
    encoder = getattr(model, "id_encoder", model)
    return encoder.item_embedding.weight[1:].detach()


def expected_start(world) -> np.ndarray:
    section = world.config.pretrain_id
    vectors = [read_vectors(world.path("encode_items/vectors"), "text", make_catalog())]
    return content_start(
        vectors, section.width, std=0.2, whitening=section.item_start.whitening,
        rng=np.random.default_rng([world.config.seed, 1]),
    ).embeddings  # fmt: skip


@pytest.mark.parametrize("output", [f"{s}/{o}" for s in STEPS for o in ("model", "refit")])
def test_what_training_never_meets_keeps_its_start_and_the_rest_learns(world, output):
    start, found = expected_start(world), table(world, output).numpy()
    never = make_catalog().item_ids.to_list().index(NEVER_WATCHED)
    np.testing.assert_array_equal(found[never], start[never])
    moved = np.abs(np.delete(found - start, never, axis=0)).max(axis=1)
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

    random, content = StageTwoWorld(tmp_path / "r"), StageTwoWorld(tmp_path / "c", pretrain=CONTENT)
    assert key(random) == key(random, digest="other")
    assert key(content) != key(content, digest="other")
