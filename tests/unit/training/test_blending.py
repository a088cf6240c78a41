import numpy as np
import pytest
import torch

from sicsrec.data.sequences import Histories
from sicsrec.errors import TrainingDivergedError
from sicsrec.evaluation.ranking import RankingSet
from sicsrec.models.blend import Blend, HistoryFacts
from sicsrec.models.gru4rec import Gru4Rec
from sicsrec.training import blending
from sicsrec.training.blending import RIDGE, fit_blend
from tests.unit.evaluation.conftest import random_histories
from tests.unit.models.test_blend import make_id_encoder

N_ITEMS = 9


def make_blend(weights: dict[str, float] | None = None) -> Blend:
    train = random_histories(60, N_ITEMS - 1, longest=7, seed=3)
    vectors = np.random.default_rng(1).normal(size=(N_ITEMS, 5)).astype(np.float32)
    facts = HistoryFacts.from_training(train, N_ITEMS, {"text": vectors})
    return Blend([make_id_encoder()], facts, weights)


def draw_targets(blend: Blend, users: Histories, seed: int) -> RankingSet:
    """Let users choose by the softmax of a blend's scores."""
    probabilities = blend.score(users).softmax(dim=1)
    torch.manual_seed(seed)
    targets = torch.multinomial(probabilities, 1)[:, 0].numpy() + 1
    return RankingSet(users, targets.astype(np.int32))


def test_weights_behind_the_targets_are_found() -> None:
    truth = {"watched": -2.0, "history_text": 3.0, "next_1": 0.8}
    users = random_histories(6000, N_ITEMS, longest=6, seed=5)
    fit = fit_blend(make_blend(), draw_targets(make_blend(truth), users, seed=1), seed=0)
    for name, weight in truth.items():
        assert fit.weights[name] == pytest.approx(weight, abs=0.35), name
    assert fit.n_users == int((users.lengths > 0).sum())
    assert fit.n_steps < 8, "Newton's steps, by the true Hessian, are few"


def test_the_fit_is_a_minimum_by_autograd() -> None:
    users = random_histories(300, N_ITEMS, longest=6, seed=5)
    valid = draw_targets(make_blend({"watched": -2.0, "next_1": 1.0}), users, seed=2)
    fit = fit_blend(make_blend(), valid, seed=0)
    kept = np.flatnonzero(users.lengths > 0)
    features = torch.stack(
        [feature for _, feature in make_blend().features(users.take(kept))], dim=-1
    ).double()
    deviations = features.var(dim=1, correction=0).mean(dim=0).sqrt()
    weights = torch.tensor(list(fit.weights.values()), dtype=torch.float64, requires_grad=True)
    columns = torch.from_numpy(valid.targets[kept].astype(np.int64) - 1)
    loss = torch.nn.functional.cross_entropy(features @ weights, columns, reduction="sum")
    penalty = RIDGE / 2 * (deviations * weights).square().sum()
    (gradient,) = torch.autograd.grad(loss + penalty, weights)
    assert gradient.abs().max().item() < 0.05
    assert fit.loss == pytest.approx((loss + penalty).item() / len(kept), rel=1e-4)


def test_vectors_that_all_point_one_way_are_told_apart() -> None:
    """Their cosines are .9998 with a deviation of .00004."""
    n_items = 60
    train = random_histories(200, n_items, longest=7, seed=3)
    vectors = np.random.default_rng(1).normal(size=(n_items, 16)).astype(np.float32)
    vectors[:, 0] += 300.0
    facts = HistoryFacts.from_training(train, n_items, {"text": vectors})
    model = make_id_encoder(n_items)
    users = random_histories(400, n_items, longest=6, seed=5)
    blend = Blend([model], facts)
    cosines = dict(blend.features(users))["history_text"]
    weight = 1.0 / float(cosines[users.lengths > 0].std(dim=1).mean())
    valid = draw_targets(Blend([model], facts, {"history_text": weight}), users, seed=2)
    fit = fit_blend(blend, valid, seed=0)
    assert fit.weights["history_text"] == pytest.approx(weight, rel=0.3)


def test_a_feature_that_never_varies_gets_no_weight() -> None:
    train = random_histories(60, N_ITEMS, longest=7, seed=3)
    blend = Blend([make_id_encoder()], HistoryFacts.from_training(train, N_ITEMS, {}))
    assert blend.facts.counts.min() > 0, "all items occur, so `cold` is 0 for all"
    users = random_histories(100, N_ITEMS, longest=4, seed=6)
    fit = fit_blend(blend, draw_targets(blend, users, seed=3), seed=0)
    assert fit.weights["cold"] == 0.0


def test_what_rounding_tells_apart_gets_no_weight() -> None:
    train = random_histories(60, N_ITEMS, longest=7, seed=3)
    noise = np.random.default_rng(1).normal(size=(N_ITEMS, 64))
    facts = HistoryFacts.from_training(
        train, N_ITEMS, {"text": (1 + 1e-4 * noise).astype(np.float32)}
    )
    blend = Blend([make_id_encoder()], facts)
    users = random_histories(100, N_ITEMS, longest=4, seed=6)
    assert dict(blend.features(users))["last_text"].unique().numel() > 2, "rounding is there"
    fit = fit_blend(blend, draw_targets(make_blend({"watched": -2.0}), users, seed=3), seed=0)
    assert max(abs(fit.weights[name]) for name in ("last_text", "history_text")) < 1e-3


def test_memory_is_bounded_by_sampling_users(monkeypatch: pytest.MonkeyPatch) -> None:
    users = random_histories(400, N_ITEMS, longest=4, seed=6)
    valid = draw_targets(make_blend({"watched": -2.0}), users, seed=3)
    monkeypatch.setattr(blending, "MAX_VALUES", 1)
    monkeypatch.setattr(blending, "FEWEST_USERS", 8)
    first, again = (fit_blend(make_blend(), valid, seed=4) for _ in range(2))
    assert first.n_users == 8
    assert first == again
    assert fit_blend(make_blend(), valid, seed=5).weights != first.weights


def test_broken_scores_are_named() -> None:
    blend = make_blend()
    with torch.no_grad():
        blend.models[0].item_embedding.weight[3] = float("nan")
    users = random_histories(50, N_ITEMS, longest=4, seed=6)
    targets = np.ones(len(users), dtype=np.int32)
    with pytest.raises(TrainingDivergedError, match="not finite"):
        fit_blend(blend, RankingSet(users, targets), seed=0)


def test_a_large_catalogue_is_fitted_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    users = random_histories(300, N_ITEMS, longest=6, seed=5)
    valid = draw_targets(make_blend({"watched": -2.0, "next_1": 1.0}), users, seed=2)
    at_once = fit_blend(make_blend(), valid, seed=0)
    values = []
    make_block = blending._make_block

    def watched(*arguments):
        block = make_block(*arguments)
        values.append(block.features.numel())
        return block

    monkeypatch.setattr(blending, "_make_block", watched)
    monkeypatch.setattr(blending, "MAX_VALUES", 4 * 10 * N_ITEMS * len(at_once.weights))
    by_block = fit_blend(make_blend(), valid, seed=0)
    assert max(values) <= 10 * N_ITEMS * len(at_once.weights)
    assert by_block.n_users == at_once.n_users
    assert by_block.weights == pytest.approx(at_once.weights, abs=1e-3)


def test_without_users_to_fit_it_on_a_blend_ranks_as_its_last_model(
    caplog: pytest.LogCaptureFixture,
) -> None:
    users = random_histories(20, N_ITEMS, longest=4, seed=6)
    newcomers = RankingSet(users.take(np.zeros(0, dtype=np.intp)), np.zeros(0, dtype=np.int32))
    rival = Gru4Rec(n_items=N_ITEMS, width=4, n_layers=1, dropout=0.0, max_history_length=6)
    blend = Blend([rival.eval(), make_id_encoder()], make_blend().facts)
    fit = fit_blend(blend, newcomers, seed=0)
    assert "nothing to fit it on" in caplog.text
    assert fit.loss is None
    blend.weights = fit.weights
    torch.testing.assert_close(blend.score(users), make_id_encoder().score(users))
