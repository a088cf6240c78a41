import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sicsrec.encoders.builder import build_encoder, load_encoder
from sicsrec.encoders.identity import digest_weights
from sicsrec.errors import DataError
from sicsrec.steps.external import external_inputs
from tests.unit.steps.stage_one_store import World


def aligned(root, **values):
    world = World(root, align_encoders=values)
    world.run("sample_pairs")
    report = world.run("align_encoders")
    return world, report, world.path("align_encoders/encoders")


def test_encoders_adapters_and_report_are_written(tmp_path):
    world, report, folder = aligned(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["alignment.json", "image", "text"]
    adapter = load_file(folder / "text/adapter.safetensors")
    assert {name: tuple(value.shape) for name, value in adapter.items()} == {
        "inner.weight": (128, 16),
        "inner.bias": (128,),
        "outer.weight": (64, 128),
        "outer.bias": (64,),
    }
    summary = json.loads((folder / "alignment.json").read_text())
    assert summary["trained"] == {"text": "last_block", "image": "last_block"}
    assert "text_adapter.inner.weight" in summary["trained_weights"]
    assert report.rows_of == "pairs"
    assert len(report.content["epochs"]) == 1
    assert world.recorder.metrics["after/modality_gap"] > 0
    assert "train/loss_t2v" in world.recorder.metrics
    assert world.refs["align_encoders/encoders"].sees == ("train",)
    assert not list(folder.rglob("*.bin"))


def test_what_is_saved_is_what_was_trained(tmp_path):
    world, _, folder = aligned(tmp_path, learning_rate=1e-2)
    for modality in ("text", "image"):
        config = getattr(world.config.align_encoders, f"{modality}_encoder")
        before = dict(build_encoder(config, modality, world.config.seed).named_parameters())
        after = dict(load_encoder(folder / modality).named_parameters())
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert moved
        expected = json.loads((folder / "alignment.json").read_text())["trained_weights"]
        assert {f"{modality}_encoder.{name}" for name in moved} <= set(expected)


def test_the_same_seed_gives_the_same_bytes_wherever_the_models_lie(tmp_path):
    first, second = (aligned(tmp_path / name)[0] for name in ("a", "b"))
    ref, other = (world.refs["align_encoders/encoders"] for world in (first, second))
    assert (ref.digest, ref.key) == (other.digest, other.key)
    for path in first.path("align_encoders/encoders").rglob("*"):
        assert not path.is_file() or str(tmp_path).encode() not in path.read_bytes()
    (manifest,) = first.store.manifests("tiny", "align_encoders")
    assert str(tmp_path) not in json.dumps(manifest.config)
    assert manifest.config["text_encoder"]["model"] == "bert"


def test_what_a_download_keeps_beside_a_model_changes_no_key(tmp_path):
    world = World(tmp_path)
    before = external_inputs("align_encoders", world.config)
    model = Path(world.config.align_encoders.text_encoder.model)
    kept = model / ".cache" / "huggingface" / "download"
    kept.mkdir(parents=True)
    (kept / "config.json.metadata").write_text("1764172800.0")
    assert external_inputs("align_encoders", world.config) == before
    (model / "config.json").write_text("{}")
    assert external_inputs("align_encoders", world.config) != before


def test_an_encoder_is_known_by_its_weights(tmp_path):
    _, _, folder = aligned(tmp_path / "a", trained="none")
    said = json.loads((folder / "text/encoder.json").read_text())
    assert said["model"] == "bert"
    assert said["source_digest"] == digest_weights(load_encoder(folder / "text").model)
    _, _, folder = aligned(tmp_path / "b")
    tuned = json.loads((folder / "text/encoder.json").read_text())
    # Where it came from, not what it has become.
    assert tuned["source_digest"] == said["source_digest"]
    assert tuned["source_digest"] != digest_weights(load_encoder(folder / "text").model)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_one_modality_alone(tmp_path, modality):
    other = {"text": "image_encoder", "image": "text_encoder"}[modality]
    _, report, folder = aligned(tmp_path, **{other: None})
    assert sorted(path.name for path in folder.iterdir()) == ["alignment.json", modality]
    assert set(report.content["epochs"][0]) == {
        "loss",
        {"text": "loss_t2t", "image": "loss_v2v"}[modality],
    }


def test_nothing_trained_leaves_the_encoders_as_they_are(tmp_path):
    world, report, folder = aligned(tmp_path, trained="none")
    before = build_encoder(world.config.align_encoders.text_encoder, "text", 5).state_dict()
    after = load_encoder(folder / "text").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert report.content["trained_weights"] == {"text": 0, "image": 0}
    assert report.content["epochs"] == []


def test_no_pairs_is_an_error_that_says_what_to_do(tmp_path):
    judge = {"min_positive": 1.0}
    world = World(tmp_path, sample_pairs={"judge": judge}, align_encoders={"image_encoder": None})
    world.run("sample_pairs")
    with pytest.raises(DataError, match="min_positive"):
        world.run("align_encoders")
