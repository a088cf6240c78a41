from contextlib import contextmanager

import numpy as np
import polars as pl
import pytest
import torch

from sicsrec.config.encoders import AlignEncodersConfig
from sicsrec.data.schema import PAIRS
from sicsrec.encoders.builder import build_encoder
from sicsrec.encoders.content import open_content
from sicsrec.encoders.encoding import encode_content
from sicsrec.errors import DataError, EncoderError, TrainingDivergedError
from sicsrec.progress import NoProgress
from sicsrec.tracking import NullTracker
from sicsrec.training import alignment, alignment_loop
from sicsrec.training.alignment import align
from sicsrec.training.alignment_loop import AlignmentState
from sicsrec.training.item_inputs import ComputedInputs, TabulatedInputs, tabulate_inputs
from sicsrec.training.objective import Objective
from sicsrec.training.pair_batches import Pairs
from tests.unit.stage_one import SMALL_CLIP, bert, make_catalog, save_tiny_bert, write_covers

ROWS = [
    ("i0", "i1", ["i6"], "s"), ("i2", "i3", ["i0", "i8"], "s"), ("i4", "i5", [], "s"),
    ("i9", "i2", ["i4"], "s"), ("i6", None, ["i8"], "s"),
]  # fmt: skip


class Recorder(NullTracker):
    def __init__(self):
        self.metrics = []

    def log_metrics(self, metrics, step=None):
        self.metrics.append((step, dict(metrics)))


class World:
    """Encoders, contents and pairs of one small catalogue."""

    def __init__(self, root, modalities=("text", "image"), rows=ROWS, text="bert", statuses=None):
        self.root = root
        self.catalog = make_catalog(statuses=statuses)
        write_covers(root / "covers", self.catalog)
        text_config = bert(save_tiny_bert(root / "bert")) if text == "bert" else SMALL_CLIP
        configs = {"text": text_config, "image": SMALL_CLIP}
        self.encoders = {name: build_encoder(configs[name], name, seed=0) for name in modalities}
        self.contents = {
            name: open_content(name, self.catalog, root / "covers") for name in modalities
        }
        frame = pl.DataFrame(rows, schema=dict(PAIRS), orient="row")
        self.pairs = Pairs.from_frame(frame, self.catalog)

    def align(self, tracker=None, seed=7, progress=None, **values):
        config = AlignEncodersConfig(
            **{
                "batch_size": 2,
                "n_epochs": 2,
                "learning_rate": 1e-2,
                "adapter_hidden_width": 6,
                "adapter_width": 4,
                **values,
            }
        )
        return align(
            self.encoders,
            self.contents,
            self.pairs,
            config,
            n_items=self.catalog.n_items,
            seed=seed,
            work=self.root,
            tracker=tracker,
            progress=progress,
        )

    def weights(self):
        return {
            f"{modality}_encoder.{name}": weight.detach().clone()
            for modality, encoder in self.encoders.items()
            for name, weight in encoder.named_parameters()
        }


def whole_forward(encoder, content, **_):
    """Encode the naive way: the whole model on what is read and prepared for every batch."""
    return ComputedInputs(encoder, content)


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def initial_adapters(world, monkeypatch):
    """Record the adapters' weights as they are made."""
    made = {}
    original = alignment._make_towers

    def record(*arguments):
        towers = original(*arguments)
        for modality, tower in towers.items():
            for name, weight in tower.adapter.named_parameters():
                made[f"{modality}_adapter.{name}"] = weight.detach().clone()
        return towers

    monkeypatch.setattr(alignment, "_make_towers", record)
    return made


@pytest.mark.parametrize("trained", ["last_block", "full", "none"])
def test_exactly_what_is_named_learns(tmp_path, monkeypatch, trained):
    world = World(tmp_path)
    made = initial_adapters(world, monkeypatch)
    before = world.weights()
    result = world.align(trained=trained)
    adapters = {
        f"{modality}_adapter.{name}": weight
        for modality, adapter in result.adapters.items()
        for name, weight in adapter.named_parameters()
    }
    changed = moved(before, world.weights()) | moved(made, adapters)
    assert changed <= set(result.trained_weights)
    if trained == "none":
        assert result.trained_weights == ()
        assert result.report["epochs"] == []
        assert result.report["before"] == result.report["after"]
        return
    assert set(adapters) <= changed
    blocks = ("text_encoder.model.encoder.layer.1.", "image_encoder.tower.transformer.resblocks.1.")
    for block in blocks:
        assert any(name.startswith(block) for name in changed)
    below = ("text_encoder.model.encoder.layer.0.", "image_encoder.tower.transformer.resblocks.0.")
    for block in below:
        assert any(name.startswith(block) for name in changed) == (trained == "full")


def test_the_image_tower_can_follow_a_rule_of_its_own(tmp_path):
    world = World(tmp_path)
    before = world.weights()
    result = world.align(trained="last_block", image_trained="full", image_learning_rate=1e-2)
    changed = moved(before, world.weights())
    assert "image_encoder.tower.conv1.weight" in changed
    assert not any(name.startswith("text_encoder.model.encoder.layer.0.") for name in changed)
    assert result.report["trained"] == {"text": "last_block", "image": "full"}
    untouched = World(tmp_path / "second")
    before = untouched.weights()
    untouched.align(trained="last_block", image_trained="none")
    assert not any(name.startswith("image_") for name in moved(before, untouched.weights()))


def test_every_part_learns_at_its_own_rate(tmp_path, monkeypatch):
    """The first step of Adam moves a weight by its rate, whatever the gradient."""
    world = World(tmp_path)
    adapters = initial_adapters(world, monkeypatch)
    before = world.weights()
    rates = {
        "learning_rate": 1e-3,
        "image_learning_rate": 1e-4,
        "adapter_learning_rate": 1e-2,
    }
    result = world.align(n_epochs=1, batch_size=16, trained="full", **rates)
    for modality, rate in (("text", 1e-3), ("image", 1e-4)):
        now, prefix = world.weights(), f"{modality}_encoder."
        moves = [now[n] - before[n] for n in before if n.startswith(prefix)]
        assert max(float(m.abs().max()) for m in moves) == pytest.approx(rate, rel=0.1)
        for name, weight in result.adapters[modality].named_parameters():
            move = weight.detach() - adapters[f"{modality}_adapter.{name}"]
            assert float(move.abs().max()) == pytest.approx(1e-2, rel=0.1)


def watch_batches(monkeypatch):
    """Record what the objective is given, step by step."""
    seen = []

    def record(self, batch, *args, original=Objective.backward):
        seen.append((self._takes_part.copy(), batch))
        return original(self, batch, *args)

    monkeypatch.setattr(Objective, "backward", record)
    return seen


def test_items_held_aside_take_no_part_in_the_term_that_is_measured_with_them(
    tmp_path, monkeypatch
):
    seen, aside = watch_batches(monkeypatch), []
    original = alignment.measure_quality

    def measure(towers, pairs_aside, both, both_aside, seed):
        aside.append((both, both_aside))
        return original(towers, pairs_aside, both, both_aside, seed)

    monkeypatch.setattr(alignment, "measure_quality", measure)
    result = World(tmp_path).align(held_aside_share=0.4)
    assert result.report["items_held_aside"] == 2
    for both, both_aside in aside:
        assert len(both_aside) == 2
        for takes_part, _ in seen:
            assert np.flatnonzero(takes_part).tolist() == sorted({*both} - {*both_aside})


def test_pairs_are_mixed_anew_in_every_epoch(tmp_path, monkeypatch):
    seen = watch_batches(monkeypatch)
    World(tmp_path).align(n_epochs=6, batch_size=2)
    epochs = [[b.items[b.anchors].tolist() for _, b in seen[i : i + 2]] for i in range(0, 12, 2)]
    assert len(seen) == 12
    assert len({str(epoch) for epoch in epochs}) > 2


@pytest.mark.parametrize("trained", ["last_block", "full"])
def test_same_seed_same_bits(tmp_path, trained):
    results = []
    for run in ("one", "two"):
        world = World(tmp_path / run)
        torch.rand(len(results) + 1)  # whatever was drawn before must not matter
        results.append((world.align(trained=trained).report, world.weights()))
    (first, first_weights), (second, second_weights) = results
    assert first == second
    assert not moved(first_weights, second_weights)
    other = World(tmp_path / "three")
    assert other.align(trained=trained, seed=8).report["epochs"] != first["epochs"]


def test_training_leaves_global_state_alone(tmp_path):
    world = World(tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    world.align()
    assert torch.equal(torch.rand(1), expected)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("trained", ["last_block", "full"])
def test_kept_activations_give_the_losses_of_the_whole_model(tmp_path, monkeypatch, trained):
    fast = World(tmp_path / "fast").align(trained=trained, n_epochs=3)
    assert fast.report["inputs_kept_in"] == {"text": "file", "image": "file"}
    world = World(tmp_path / "naive")
    # Chunks by length and dropout by chunk are the same for both, so that only the split differs.
    plan = TabulatedInputs.plan
    monkeypatch.setattr(alignment, "tabulate_inputs", whole_forward)
    parts = {name: lengths_of(world, name) for name in world.encoders}
    monkeypatch.setattr(
        ComputedInputs, "plan", lambda self, *args: plan(parts[self._content.modality], *args)
    )
    naive = world.align(trained=trained, n_epochs=3)
    assert naive.report["inputs_kept_in"] == {"text": "computed", "image": "computed"}
    for one, other in zip(fast.report["epochs"], naive.report["epochs"], strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    for moment in ("before", "after"):
        assert fast.report[moment] == pytest.approx(naive.report[moment], rel=1e-2, abs=1e-3)


def lengths_of(world, modality):
    """The kept inputs of a modality, for the plan that follows from their lengths."""
    encoder, content = world.encoders[modality], world.contents[modality]
    return tabulate_inputs(
        encoder, content, batch_size=4, work=world.root, progress=NoProgress(), max_bytes=1 << 20
    )


@pytest.mark.parametrize("trained", ["last_block", "full", "lora"])
def test_the_gradient_cache_adds_up_to_the_gradient_of_the_batch(tmp_path, monkeypatch, trained):
    """With dropout, in chunks of two items."""
    image_trained = "full" if trained == "full" else "last_block"
    gradients = {}
    for name, values in {
        "whole": {"items_at_a_time": 2},
        "cached": {"items_at_a_time": 2, "gradient_cache": True},
    }.items():
        world = World(tmp_path / name)
        seen = gradients.setdefault(name, [])

        def record(self, *args, seen=seen, world=world, original=Objective.backward):
            losses = original(self, *args)
            if not seen:
                for encoder in world.encoders.values():
                    for key, weight in encoder.trained_parameters().items():
                        if weight.grad is not None:  # a pooler that pooling does not use
                            seen.append((key, weight.grad.clone()))
                for tower in self._towers.values():
                    seen.extend(("adapter", w.grad.clone()) for w in tower.adapter.parameters())
            return losses

        with monkeypatch.context() as patch:
            patch.setattr(Objective, "backward", record)
            world.align(batch_size=4, trained=trained, image_trained=image_trained, **values)
    assert len(gradients["whole"]) > 20
    for (name, one), (_, other) in zip(gradients["whole"], gradients["cached"], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6, msg=name)
    assert any(one.abs().max() > 0 for _, one in gradients["whole"])


def test_the_memory_bank_changes_the_losses_once_it_has_something(tmp_path):
    without = World(tmp_path / "a").align(n_epochs=1)
    bank = {"size": 8, "max_age_steps": 3}
    with_bank = World(tmp_path / "b").align(n_epochs=1, memory_bank=bank)
    for term in ("loss_t2t", "loss_t2v"):
        assert with_bank.report["epochs"][0][term] > without.report["epochs"][0][term]


def test_nothing_is_kept_of_items_where_nothing_is_trained(tmp_path):
    world = World(tmp_path)
    report = world.align(trained="none").report
    assert report["inputs_kept_in"] == {"text": "computed", "image": "computed"}
    assert not list(tmp_path.rglob("*_inputs.bin"))
    kept = World(tmp_path / "kept").align(trained="none", image_trained="last_block").report
    assert report["before"] == report["after"] == pytest.approx(kept["before"], abs=1e-5)


def test_low_rank_weights_learn_and_are_merged(tmp_path):
    world = World(tmp_path)
    before, names = world.weights(), set(dict(world.encoders["text"].named_parameters()))
    result = world.align(trained="lora", image_trained="last_block", n_epochs=3)
    assert set(dict(world.encoders["text"].named_parameters())) == names
    trained = {name for name in result.trained_weights if name.startswith("text_encoder.")}
    assert trained
    assert all(".lora_" in name for name in trained)
    changed = {name for name in moved(before, world.weights()) if name.startswith("text_")}
    # Every linear layer has moved and nothing else; the pooler is not used by mean pooling.
    assert changed == {
        name
        for name in before
        if name.startswith("text_encoder.model.encoder.layer.")
        and name.endswith("weight")
        and "LayerNorm" not in name
    }
    assert result.report["trained"] == {"text": "lora", "image": "last_block"}
    assert result.report["before"] != result.report["after"]


def test_fused_attention_takes_no_low_rank_weights_and_the_error_says_what_to_do(tmp_path):
    with pytest.raises(EncoderError, match=r"(?s)in_proj_weight.*image_trained.*transformers"):
        World(tmp_path).align(trained="lora")


def test_half_precision_stays_close_on_the_cpu(tmp_path):
    plain = World(tmp_path / "a").align(n_epochs=1)
    half = World(tmp_path / "b").align(n_epochs=1, precision="bfloat16")
    auto = World(tmp_path / "c").align(n_epochs=1, precision="auto")
    assert half.report["epochs"] != plain.report["epochs"]
    assert half.report["epochs"][0]["loss"] == pytest.approx(
        plain.report["epochs"][0]["loss"], rel=0.1
    )
    assert auto.report["epochs"] == plain.report["epochs"]


def test_items_with_equal_text_are_no_negatives_of_each_other(tmp_path):
    world = World(tmp_path, ("text",))
    groups = world.contents["text"].groups()
    assert len(set(groups.tolist())) == len(groups)
    world.contents["text"]._texts[3] = "  RED cat film "  # as i0, but for case and space
    groups = world.contents["text"].groups()
    assert groups[0] == groups[3]
    assert world.align().report["items_with_a_twin"] == {"text": 2}


class Stop(NoProgress):
    """Stops the process's work after some batches, as a kill would."""

    def __init__(self, after):
        self.left = after

    @contextmanager
    def stage(self, description, total):
        def advance(n=1, note=""):
            self.left -= description == "alignment"
            if self.left == 0:
                raise KeyboardInterrupt

        yield advance


@pytest.mark.parametrize(("after", "seconds"), [(1, 0.0), (3, 0.0), (2, 60.0), (5, 60.0)])
def test_a_run_that_was_cut_off_goes_on_to_the_same_bits(tmp_path, monkeypatch, after, seconds):
    """Two batches an epoch, three epochs; checkpoints after every batch or every epoch."""
    values = {"n_epochs": 3, "batch_size": 2, "memory_bank": {"size": 5}}
    whole = World(tmp_path / "whole")
    expected = whole.align(**values)
    monkeypatch.setattr(alignment_loop, "CHECKPOINT_SECONDS", seconds)
    with pytest.raises(KeyboardInterrupt):
        World(tmp_path / "cut").align(**values, progress=Stop(after))
    again = World(tmp_path / "cut")
    tracker = Recorder()
    result = again.align(**values, tracker=tracker)
    assert result.report == expected.report
    assert not moved(whole.weights(), again.weights())
    for name, adapter in result.adapters.items():
        for one, other in zip(
            adapter.parameters(), expected.adapters[name].parameters(), strict=True
        ):
            assert torch.equal(one, other)
    # The record of the run that goes on has every epoch.
    assert [step for step, _ in tracker.metrics] == [1, 2, 3]


@pytest.mark.parametrize(
    ("modalities", "terms"), [(("text",), {"loss_t2t"}), (("image",), {"loss_v2v"})]
)
def test_one_modality_has_its_own_term_only(tmp_path, modalities, terms):
    tracker = Recorder()
    result = World(tmp_path, modalities).align(tracker=tracker)
    for epoch in result.report["epochs"]:
        assert set(epoch) == {"loss", *terms}
    assert set(result.adapters) == set(modalities)
    assert "modality_gap" not in result.report["after"]
    assert [step for step, _ in tracker.metrics] == [1, 2]
    assert set(tracker.metrics[0][1]) == {"train/loss", *(f"train/{term}" for term in terms)}


def test_both_modalities_add_their_terms(tmp_path):
    result = World(tmp_path).align()
    for epoch in result.report["epochs"]:
        parts = [epoch[name] for name in ("loss_t2t", "loss_v2v", "loss_t2v")]
        assert epoch["loss"] == pytest.approx(sum(parts), abs=1e-5)
    assert result.report["items_with_text_and_image"] == 7


def test_items_without_an_image_do_not_reach_the_image_tower(tmp_path):
    """With no two covers there is nothing for v2v and t2v to learn from, and nothing breaks."""
    statuses = ["ok", *["missing"] * 9]
    world = World(tmp_path, statuses=statuses)
    before = world.weights()
    result = world.align()
    assert all(set(epoch) == {"loss", "loss_t2t"} for epoch in result.report["epochs"])
    assert not any(
        name.startswith("image_") and not torch.allclose(before[name], now, rtol=0.01, atol=1e-3)
        for name, now in world.weights().items()
    )


def test_few_pairs_among_many_items_are_each_others_negatives(tmp_path):
    recorder = Recorder()
    few = [("i0", "i1", [], "s"), ("i2", "i3", [], "s")]
    World(tmp_path, rows=few).align(recorder, n_epochs=1)
    (_, losses), *_ = recorder.metrics
    assert losses["train/loss_t2t"] > 0.0


def test_a_batch_without_pairs_says_nothing_of_their_loss():
    state = AlignmentState()
    for losses in ({"loss_t2t": 1.0, "loss_t2v": 2.0}, {"loss_t2v": 4.0}, {}, {"loss_t2t": 3.0}):
        state.add(losses)
    assert state.batch == 4
    assert state.finish_epoch() == {"loss": 5.0, "loss_t2t": 2.0, "loss_t2v": 3.0}
    assert (state.epoch, state.batch, state.sums) == (1, 0, {})


def test_pairs_without_any_negative_are_nothing_to_train_on(tmp_path):
    alone = [("i0", "i1", [], "s")]
    with pytest.raises(DataError, match="no pair has a negative"):
        World(tmp_path, ("text",), rows=alone).align()


def test_weights_decay_as_configured(tmp_path):
    norms = {}
    for decay in (0.0, 0.5):
        world = World(tmp_path / str(decay), ("text",))
        before = world.weights()
        world.align(n_epochs=1, learning_rate=1e-2, weight_decay=decay)
        moved = {name: now for name, now in world.weights().items()
                 if not torch.equal(before[name], now)}  # fmt: skip
        norms[decay] = sum(float(now.norm()) for now in moved.values())
    assert norms[0.5] < 0.995 * norms[0.0]


def test_learning_brings_pairs_and_modalities_together(tmp_path):
    world = World(tmp_path, text="clip")
    result = world.align(
        trained="full", n_epochs=40, learning_rate=3e-3, adapter_learning_rate=1e-2, batch_size=8,
        temperature=0.2, adapter_hidden_width=32, adapter_width=16,
    )  # fmt: skip
    epochs, after = result.report["epochs"], result.report["after"]
    for term in ("loss_t2t", "loss_v2v", "loss_t2v"):
        assert epochs[-1][term] < 0.5 * epochs[0][term]
    assert after["t2v_recall_at_1"] > result.report["before"]["t2v_recall_at_1"]
    assert after["t2v_recall_at_1"] >= 0.85
    assert after["v2t_recall_at_1"] >= 0.85


def test_exported_vectors_are_those_that_were_tuned(tmp_path):
    world = World(tmp_path)
    captured = {}
    original = alignment.measure_quality

    def capture(towers, *arguments):
        for modality, tower in towers.items():
            tower.encoder.eval()
            with torch.no_grad():
                captured[modality] = tower.inputs.encode(world.contents[modality].indices)
        return original(towers, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "measure_quality", capture)
        world.align()
    for modality, encoder in world.encoders.items():
        _, matrix = encode_content(encoder, world.contents[modality], batch_size=3, normalise=False)
        np.testing.assert_allclose(matrix, captured[modality].numpy(), rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    world = World(tmp_path, ("text",))
    with torch.no_grad():
        next(iter(world.encoders["text"].last_block().modules)).attention.output.dense.weight.fill_(
            float("nan")
        )
    with pytest.raises(TrainingDivergedError, match="epoch 1"):
        world.align()


def test_nothing_to_train_on_says_what_to_do(tmp_path):
    nothing = [("i6", None, ["i8"], "s")]
    with pytest.raises(DataError, match="min_positive"):
        World(tmp_path, ("text",), rows=nothing).align()
    report = World(tmp_path / "both", rows=nothing).align().report
    assert report["epochs"][-1]["loss_t2v"] > 0
    assert "loss_t2t" not in report["epochs"][-1]
    assert (
        World(tmp_path / "n", ("text",), rows=nothing).align(trained="none").report["epochs"] == []
    )


def test_a_modality_that_no_item_has_is_an_error(tmp_path):
    with pytest.raises(DataError, match="image_encoder"):
        World(tmp_path, statuses=["missing"] * 10).align()
