"""The training loop: early stop, best weights, resuming, refusal of what cannot be trained."""

import logging
import time
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from sicsrec.data.packing import training_batches
from sicsrec.data.sequences import Histories
from sicsrec.errors import DataError, TrainingDivergedError, TrainingProcessError
from sicsrec.models.base import TokenBatch
from sicsrec.models.candidates import CandidateSampler
from sicsrec.models.id_encoder import IdEncoder
from sicsrec.models.peers import ALONE, Peers
from sicsrec.models.sicsrec import SICSRec
from sicsrec.progress import LogProgress, NoProgress
from sicsrec.steps.stage_two import target_counts
from sicsrec.tracking import NullTracker
from sicsrec.training import sequential
from sicsrec.training.checkpoint import (
    CHECKPOINT,
    CHECKPOINT_SECONDS,
    Checkpoint,
    FitState,
    check_same_start,
)
from sicsrec.training.sequential import FitSettings, fit

SETTINGS = FitSettings(
    learning_rate=0.01,
    batch_targets=30,
    max_epochs=6,
    patience=3,
    selection_metric="hr_at_10",
    seed=5,
)


def make_model() -> IdEncoder:
    torch.manual_seed(0)
    return IdEncoder(
        n_items=9,
        width=8,
        inner_width=8,
        n_layers=1,
        n_heads=2,
        dropout=0.3,
        max_history_length=5,
    )


def make_histories(length: int = 8) -> Histories:
    """Users who watch the items in a circle, each from a place of his own."""
    starts = np.random.default_rng(1).integers(0, 9, size=(12, 1))
    items = ((starts + np.arange(length)) % 9 + 1).astype(np.int32).ravel()
    users = pl.Series("user_id", [f"{n:02}" for n in range(12)])
    return Histories(users, np.arange(0, 12 * length + 1, length), items)


def make_sicsrec(alpha: float) -> tuple[SICSRec, torch.Tensor]:
    """Return a model of step 2 over 12 items, of which histories hold nine, and their vectors."""
    torch.manual_seed(0)
    model = SICSRec(
        n_items=12, width=8, inner_width=8, n_layers=1, n_heads=2, dropout=0.0,
        max_history_length=5, vector_widths={"text": 6}, fusion_dropout=0.0, adapter_rank=2,
        alpha=alpha, temperature=0.1, table_penalty=0.01, item_dropout=0.0, scoring="raw",
    )  # fmt: skip
    vectors = torch.randn(12, 6)
    model.content_embedding.load_vectors("text", vectors, torch.ones(12, dtype=torch.bool))
    return model, vectors


class Validation:
    """Gives the values of a list, one per epoch, and may stop the process's work at one of them."""

    def __init__(self, values: list[float], killed_at: int | None = None) -> None:
        self.values = values
        self.killed_at = killed_at
        self.weights: list[dict[str, torch.Tensor]] = []

    def __call__(self, model) -> dict[str, float]:
        if len(self.weights) + 1 == self.killed_at:
            raise KeyboardInterrupt
        self.weights.append({name: v.clone() for name, v in model.state_dict().items()})
        return {"hr_at_10": self.values[len(self.weights) - 1]}


class Recorder(NullTracker):
    def __init__(self) -> None:
        self.metrics: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics, step=None) -> None:
        self.metrics.append((step, dict(metrics)))


def run(model, validation, work, tracker=None, progress=None, **changes):
    settings = FitSettings(**(SETTINGS.__dict__ | changes))
    return fit(
        model,
        make_histories(),
        validation,
        settings,
        work=work,
        tracker=tracker or NullTracker(),
        progress=progress or NoProgress(),
    )


def test_training_stops_after_patience_and_keeps_the_best_weights(tmp_path):
    model, validation = make_model(), Validation([0.1, 0.5, 0.4, 0.3, 0.2, 0.9])
    state = run(model, validation, tmp_path)
    assert (state.best_epoch, state.best_value, state.epoch) == (2, 0.5, 5)
    for name, value in model.state_dict().items():
        assert torch.equal(value, validation.weights[1][name])
    assert [record["epoch"] for record in state.log] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("validation", "told"),
    [
        (Validation([0.1, 0.5, 0.4, 0.3, 0.2]), "epochs of id_encoder: done, 5 in"),
        (None, "refit epochs of id_encoder: done, 6 in"),
    ],
)
def test_progress_counts_epochs_and_says_so(validation, told, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="sicsrec.progress"):
        run(make_model(), validation, tmp_path, progress=LogProgress())
    # What is recorded of other loggers depends on the tests before.
    *_, last = (record for record in caplog.records if record.name == "sicsrec.progress")
    assert last.getMessage().startswith(told)


def fit_sicsrec(alpha, histories, work, validate=None):
    """Return how far training moved the text vector of each item, [12]."""
    model, vectors = make_sicsrec(alpha)
    fit(
        model,
        histories,
        validate,
        SETTINGS,
        work=work,
        tracker=NullTracker(),
        progress=NoProgress(),
    )
    after = model.content_embedding.tables()[0].weight.detach()[1:]
    return (after - vectors).abs().amax(dim=1)


def test_content_of_items_that_training_never_meets_stays_as_the_encoders_gave_it(tmp_path):
    moved = fit_sicsrec(0.2, make_histories(), tmp_path)
    assert moved[9:].tolist() == [0.0, 0.0, 0.0]
    assert moved[:9].min() > 0.001


def test_content_of_unread_items_survives_a_kill(tmp_path):
    killed = Validation([0.1, 0.5, 0.4], killed_at=3)
    with pytest.raises(KeyboardInterrupt):
        fit_sicsrec(0.2, make_histories(), tmp_path, killed)
    assert not torch.load(tmp_path / CHECKPOINT, weights_only=True)["model"][
        "content_embedding.adapters.text.table.weight"
    ][10:].equal(make_sicsrec(0.2)[1][9:])
    moved = fit_sicsrec(0.2, make_histories(), tmp_path, Validation([0.4, 0.3, 0.2, 0.1]))
    assert moved[9:].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("alpha", "stays"), [(0.0, [2, 3]), (0.2, [3])])
def test_what_is_only_watched_last_is_read_by_the_contrast_alone(tmp_path, alpha, stays):
    """Items 1 to 3, of which nobody watches anything after the third; item 4 is watched alone."""
    items = np.array([1, 2, 3, 2, 1, 3, 4], dtype=np.int32)
    histories = Histories(pl.Series("user_id", ["a", "b", "c"]), np.array([0, 3, 6, 7]), items)
    moved = fit_sicsrec(alpha, histories, tmp_path)
    assert moved[:4].eq(0).nonzero().flatten().tolist() == stays


def test_of_equally_good_epochs_the_first_is_kept(tmp_path):
    validation = Validation([0.2, 0.5, 0.5, 0.5, 0.5, 0.5])
    model = make_model()
    state = run(model, validation, tmp_path)
    assert (state.best_epoch, state.epoch) == (2, 5)
    for name, value in model.state_dict().items():
        assert torch.equal(value, validation.weights[1][name])


def test_it_is_a_plain_loop_over_drawn_batches(tmp_path):
    """With dropout on, gradients of one batch at a time, and Adam at its rate."""
    model, twin = make_model(), make_model()
    run(model, None, tmp_path, max_epochs=3)
    optimiser = torch.optim.Adam(twin.parameters(), lr=SETTINGS.learning_rate)
    twin.train()
    for epoch in (1, 2, 3):
        rng = np.random.default_rng([SETTINGS.seed, epoch])
        torch.manual_seed(int(rng.integers(2**31)))
        for packed in training_batches(make_histories(), 5, SETTINGS.batch_targets, rng):
            optimiser.zero_grad()
            twin.loss(TokenBatch.from_packed(packed, twin.device))["loss"].backward()
            optimiser.step()
    # Scores, not weights: a bias of keys has no gradient but the noise of rounding.
    expected = twin.score(make_histories())
    torch.testing.assert_close(model.score(make_histories()), expected, atol=1e-4, rtol=1e-4)


def test_order_and_dropout_follow_the_seed_and_the_epoch(tmp_path):
    """At a rate of 0 the losses of two epochs, or of two seeds, differ by what is drawn alone."""
    losses = {}
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        model = make_model()
        work = make_folder(tmp_path / name)
        state = run(model, None, work, seed=seed, learning_rate=0.0, max_epochs=3)
        losses[name] = [record["refit/loss"] for record in state.log]
        for key, value in make_model().state_dict().items():
            assert torch.equal(model.state_dict()[key], value)
    assert losses["a"] == losses["b"]
    assert len({*losses["a"], *losses["c"]}) == 6


def test_the_loss_falls(tmp_path):
    state = run(make_model(), Validation([0.1 * n for n in range(1, 30)]), tmp_path, max_epochs=25)
    assert state.log[-1]["train/loss"] < 0.5 * state.log[0]["train/loss"]


def test_half_precision_gives_nearly_the_same_losses_and_whole_weights(tmp_path):
    logs = {}
    for precision in ("float32", "bfloat16", "auto"):
        (tmp_path / precision).mkdir()
        model = make_model()
        state = run(model, None, tmp_path / precision, precision=precision)
        logs[precision] = [entry["refit/loss"] for entry in state.log]
        assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert logs["auto"] == logs["float32"] != logs["bfloat16"]
    assert logs["bfloat16"] == pytest.approx(logs["float32"], rel=0.01)


def test_the_loss_over_all_items_falls_when_trained_on_sampled_ones(tmp_path):
    model = make_model()
    [packed] = training_batches(make_histories(), 5, 1000, np.random.default_rng(0))
    batch = TokenBatch.from_packed(packed, model.device)
    before = float(model.eval().loss(batch)["loss"].detach())
    model.candidates = CandidateSampler(3, target_counts(make_histories(), 9))
    run(model, Validation([0.1 * n for n in range(1, 30)]), tmp_path, max_epochs=25)
    model.candidates = None
    assert float(model.eval().loss(batch)["loss"].detach()) < 0.5 * before


def test_the_first_item_of_a_history_is_no_target():
    histories = Histories(
        pl.Series("user_id", ["a", "b", "c"]),
        np.array([0, 3, 3, 4]),
        np.array([1, 2, 1, 3], dtype=np.int32),
    )
    assert target_counts(histories, 4).tolist() == [1, 1, 0, 0]


def test_the_seconds_of_a_run_cut_off_count_all_its_epochs(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(make_model(), Validation([0.1, 0.2, 0.3], killed_at=4), tmp_path, max_epochs=6)
    content = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert content["state"]["seconds"] > 0.0
    content["state"]["seconds"] += 1e6
    torch.save(content, tmp_path / CHECKPOINT)
    state = run(make_model(), Validation([0.4, 0.5, 0.6]), tmp_path, max_epochs=6)
    assert state.epoch == 6
    assert state.seconds > 1e6


def test_a_checkpoint_within_an_epoch_is_due_only_a_while_after_the_last(tmp_path, monkeypatch):
    model = make_model()
    saved = Checkpoint(tmp_path / CHECKPOINT, model, torch.optim.AdamW(model.parameters()))
    assert not saved.is_due
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2 * CHECKPOINT_SECONDS)
    assert saved.is_due
    saved.save(FitState())
    assert not saved.is_due


@pytest.mark.parametrize("values", [[0.1, 0.3, 0.2, 0.4, 0.1, 0.2], [0.1, 0.9, 0.2, 0.4, 0.1, 0.2]])
def test_a_run_cut_off_and_resumed_gives_the_bits_of_an_undisturbed_one(tmp_path, values):
    """The best epoch comes after the cut, or came before it."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    expected, undisturbed = make_model(), Recorder()
    expected_state = run(expected, Validation(values), whole, undisturbed)
    with pytest.raises(KeyboardInterrupt):
        run(make_model(), Validation(values, killed_at=4), broken)
    assert (broken / CHECKPOINT).exists()
    torch.manual_seed(99)  # another process has drawn other numbers
    resumed, recorder = make_model(), Recorder()
    state = run(resumed, Validation(values[3:]), broken, recorder)
    assert state == expected_state
    # The record of the run that goes on has every epoch.
    assert recorder.metrics == undisturbed.metrics
    assert [step for step, _ in recorder.metrics] == list(range(1, state.epoch + 1))
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name])


def read_at_once(monkeypatch, n_batches):
    """As on a GPU, where losses are looked at after several batches; an epoch has three."""
    monkeypatch.setattr(sequential, "_batches_read_at_once", lambda _: n_batches)


@pytest.mark.parametrize("n_batches", [2, 3, 16])
def test_when_losses_are_read_changes_nothing(tmp_path, monkeypatch, n_batches):
    results = []
    for name in ("each", "several"):
        (tmp_path / name).mkdir()
        model = make_model()
        results.append(
            (model, run(model, Validation([0.1, 0.3, 0.2]), tmp_path / name, patience=1))
        )
        read_at_once(monkeypatch, n_batches)
    (expected, state), (model, found) = results
    assert found.log == state.log
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name])


def test_a_run_killed_within_an_epoch_goes_on_from_batches_that_were_read(tmp_path, monkeypatch):
    values = [0.1, 0.3, 0.2, 0.4, 0.1, 0.2]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    expected = make_model()
    expected_state = run(expected, Validation(values), whole)
    read_at_once(monkeypatch, 2)
    monkeypatch.setattr(Checkpoint, "is_due", True)
    save, places = Checkpoint.save, []

    def save_and_die(checkpoint, state):
        save(checkpoint, state)
        places.append((state.epoch, state.batch))
        if places[-1] == (1, 2):
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run(make_model(), Validation(values), broken)
    monkeypatch.setattr(Checkpoint, "save", save)
    assert places == [(0, 2), (1, 0), (1, 2)]
    torch.manual_seed(99)
    resumed = make_model()
    assert run(resumed, Validation(values[1:]), broken) == expected_state
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name])


@pytest.mark.parametrize(("written_on", "read_on"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_checkpoint_of_another_kind_of_device_says_that_dropout_differs(
    tmp_path, caplog, written_on, read_on
):
    model = make_model()
    checkpoint = Checkpoint(tmp_path / CHECKPOINT, model, torch.optim.Adam(model.parameters()))
    checkpoint.save(FitState())
    checkpoint.resume()
    checkpoint._random = {name: [torch.get_rng_state()] for name in {"cpu", written_on}}
    checkpoint._model = SimpleNamespace(
        device=torch.device(read_on), kind="id_encoder", peers=ALONE
    )
    with caplog.at_level(logging.WARNING):
        checkpoint.restore_random()
    assert "other dropout" in caplog.text


@pytest.mark.parametrize("n_batches", [1, 16])
def test_a_loss_that_is_not_finite_is_named(tmp_path, monkeypatch, n_batches):
    read_at_once(monkeypatch, n_batches)
    model = make_model()
    with torch.no_grad():
        model.item_embedding.weight[3] = float("nan")
    with pytest.raises(TrainingDivergedError, match=r"id_encoder.*epoch 1.*learning_rate"):
        run(model, Validation([0.1]), tmp_path)


def test_histories_of_one_item_are_refused(tmp_path):
    with pytest.raises(DataError, match="two items"):
        fit(
            make_model(),
            make_histories(length=1),
            Validation([0.1]),
            SETTINGS,
            work=tmp_path,
            tracker=NullTracker(),
            progress=NoProgress(),
        )


def test_a_fit_without_validation_trains_all_epochs_and_keeps_the_last_weights(tmp_path):
    """It ends where the same training with validation is after as many epochs."""
    watched = Validation([0.1, 0.2, 0.3, 0.4])
    run(make_model(), watched, make_folder(tmp_path / "with"), max_epochs=4)
    model = make_model()
    state = run(model, None, make_folder(tmp_path / "without"), max_epochs=4, patience=1)
    assert (state.epoch, state.best_epoch) == (4, 4)
    for name, value in model.state_dict().items():
        assert torch.equal(value, watched.weights[3][name]), name
    assert [sorted(entry) for entry in state.log] == [["epoch", "refit/loss"]] * 4


def make_folder(path):
    path.mkdir()
    return path


def test_peers_that_start_from_different_places_are_refused(tmp_path):
    class OneAhead(Peers):
        def collect(self, state):
            return [state, state + 1]

    with pytest.raises(TrainingProcessError, match=r"do not see the same .*network disk"):
        fit(
            make_model(),
            make_histories(),
            None,
            SETTINGS,
            work=tmp_path,
            tracker=NullTracker(),
            progress=NoProgress(),
            peers=OneAhead(),
        )


@pytest.mark.parametrize(("epoch", "batch"), [(1, 3), (2, 2)])
def test_peers_compare_epoch_and_batch(tmp_path, epoch, batch):
    class Beside(Peers):
        """Collects as if a second process had told what this one told last."""

        def __init__(self):
            self.told = []

        def collect(self, state):
            self.told.append(state)
            return self.told[-2:]

    peers = Beside()
    for _ in range(2):
        check_same_start(FitState(epoch=1, batch=2), peers, tmp_path)
    with pytest.raises(TrainingProcessError, match="do not see the same"):
        check_same_start(FitState(epoch=epoch, batch=batch), peers, tmp_path)
