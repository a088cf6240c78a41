"""Which histories each fit of stage 2 is trained on, from which start, and for how long."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from sicsrec.config import SequenceModelConfig
from sicsrec.data.sequences import Histories, item_counts
from sicsrec.data.split import global_time, leave_one_out
from sicsrec.data.vectors import read_vectors
from sicsrec.evaluation.ranking import RankingSet
from sicsrec.models.base import SequenceModel
from sicsrec.models.blend_storage import load_blend
from sicsrec.models.candidates import CandidateSampler
from sicsrec.models.id_encoder import IdEncoder
from sicsrec.models.storage import load_model
from sicsrec.progress import NoProgress
from sicsrec.steps.stage_two import VALID_CUTOFFS, target_counts
from sicsrec.steps.train_sicsrec import build_sicsrec
from sicsrec.tracking import NullTracker
from sicsrec.training.job import Validation
from sicsrec.training.sequential import FitSettings, FitState, fit
from tests.unit.steps.stage_two_store import STEPS, StageTwoWorld
from tests.unit.steps.tiny_store import N_ITEMS, make_catalog, make_interactions

CATALOG = make_catalog()
SPLIT = leave_one_out(make_interactions())
TRAIN = Histories.from_interactions(SPLIT.train.interactions, CATALOG)
VALID = RankingSet.from_held_out(SPLIT.valid, CATALOG)
# All that was watched but the test targets.
BOTH = TRAIN.followed_by(Histories.from_interactions(SPLIT.valid.interactions, CATALOG))


@pytest.fixture(scope="module", params=["all items", "sampled items"])
def world(request, tmp_path_factory: pytest.TempPathFactory):
    """Both steps, and what they reported; validation is best before the last epoch."""
    sampled = {"sampled_softmax_above": 5, "n_sampled": 4} if "sampled" in request.param else {}
    world = StageTwoWorld(tmp_path_factory.mktemp("world"), patience=1, **sampled)
    return world, {name: world.run(name).content for name in STEPS}


def fitted(
    world: StageTwoWorld,
    model: SequenceModel,
    section: SequenceModelConfig,
    work,
    *,
    n_epochs: int | None = None,
) -> FitState:
    """Fit by hand: with validation on TRAIN, or for so many epochs on BOTH."""
    histories = TRAIN if n_epochs is None else BOTH
    if section.sampled_softmax_above < N_ITEMS:
        counts = target_counts(histories, N_ITEMS)
        model.candidates = CandidateSampler(section.n_sampled, counts)
    names = FitSettings.__dataclass_fields__.keys() - {"seed"}
    settings = FitSettings(seed=5, **{name: getattr(section, name) for name in names})
    validation = Validation(VALID, VALID_CUTOFFS, world.config.evaluate.remove_seen)
    work.mkdir()
    return fit(
        model,
        histories,
        validation if n_epochs is None else None,
        settings if n_epochs is None else replace(settings, max_epochs=n_epochs),
        work=work,
        tracker=NullTracker(),
        progress=NoProgress(),
    )


def check_equal(model: SequenceModel, expected: SequenceModel) -> None:
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_step_one_is_fitted_to_train_and_again_to_train_and_valid(world, tmp_path) -> None:
    world, reports = world
    section = world.config.pretrain_id

    def untrained() -> IdEncoder:
        torch.manual_seed(5)
        names = ("width", "inner_width", "n_layers", "n_heads", "dropout", "max_history_length")
        return IdEncoder(n_items=N_ITEMS, **{name: getattr(section, name) for name in names})

    model = untrained()
    state = fitted(world, model, section, tmp_path / "train")
    report = reports["pretrain_id"]
    assert (report["best_epoch"], report["epochs"]) == (state.best_epoch, state.epoch)
    check_equal(load_model(world.path("pretrain_id/model")), model)
    model = untrained()
    fitted(world, model, section, tmp_path / "both", n_epochs=state.best_epoch)
    assert report["refit"]["epochs"] == state.best_epoch < state.epoch
    assert report["refit"]["training_targets"] == int(np.maximum(BOTH.lengths - 1, 0).sum())
    check_equal(load_model(world.path("pretrain_id/refit")), model)


def test_step_two_starts_from_what_step_one_learned_from_the_same_histories(
    world, tmp_path
) -> None:
    world, reports = world
    section = world.config.train_sicsrec
    vectors = read_vectors(world.path("encode_items/vectors"), "text", CATALOG)
    report = reports["train_sicsrec"]
    for output, n_epochs in (("model", None), ("refit", report["best_epoch"])):
        pretrained = load_model(world.path(f"pretrain_id/{output}"))
        torch.manual_seed(5)
        model = build_sicsrec(section, N_ITEMS, [vectors], pretrained)
        fitted(world, model, section, tmp_path / output, n_epochs=n_epochs)
        check_equal(load_model(world.path(f"train_sicsrec/{output}")), model)


def test_a_refit_is_told_all_that_was_watched_between_the_points_of_global_time(tmp_path) -> None:
    timed = make_interactions().with_columns(timestamp=pl.col("position").cast(pl.Int64))
    split = global_time(timed, valid_share=0.4, test_share=0.1)
    n_rows = split.train.interactions.height + split.valid.interactions.height
    assert split.valid.interactions.height > split.valid.targets.height, "not targets alone"
    told = pl.concat([split.train.interactions, split.valid.interactions])

    world = StageTwoWorld(tmp_path, split=split, max_epochs=1)
    content = world.run("pretrain_id").content
    assert content["refit"]["training_targets"] == n_rows - told["user_id"].n_unique()


@pytest.mark.parametrize(
    ("output", "blend", "histories"), [("model", "blend", TRAIN), ("refit", "refit_blend", BOTH)]
)
@pytest.mark.parametrize("kind", ["id_encoder", "sicsrec"])
def test_blends_count_the_histories_of_their_models(world, output, blend, histories, kind) -> None:
    world, reports = world
    steps = ("pretrain_id", "train_sicsrec")
    models = [load_model(world.path(f"{step}/{output}")) for step in steps]
    found = load_blend(world.path(f"train_sicsrec/{blend}") / kind, models)
    assert found.facts.counts.tolist() == item_counts(histories, N_ITEMS).tolist()
    # The weights are those fitted before validation was part of the counts.
    assert found.weights == reports["train_sicsrec"]["blend"][kind]["weights"]
