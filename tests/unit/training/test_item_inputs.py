import itertools

import numpy as np
import pytest
import torch

from sicsrec.encoders.builder import build_encoder
from sicsrec.encoders.content import open_content
from sicsrec.errors import ConfigError, EncoderError
from sicsrec.progress import NoProgress
from sicsrec.training.constant_parts import PartsWriter, read_parts
from sicsrec.training.item_inputs import tabulate_inputs
from tests.unit.stage_one import SMALL_CLIP, bert, make_catalog, save_tiny_bert, write_covers


def set_up(tmp_path, modality, trained, kind):
    catalog = make_catalog()
    write_covers(tmp_path / "covers", catalog)
    config = SMALL_CLIP if kind == "clip" else bert(save_tiny_bert(tmp_path / "bert"))
    encoder = build_encoder(config, modality, seed=0)
    encoder.set_trained(trained)
    return encoder.eval(), open_content(modality, catalog, tmp_path / "covers")


def tabulate(encoder, content, work, **values):
    return tabulate_inputs(
        encoder,
        content,
        **{
            "batch_size": 3,
            "work": work,
            "progress": NoProgress(),
            "max_bytes": 1 << 30,
            **values,
        },
    )


BOUNDS = {"file": 1 << 30, "computed": 100}


@pytest.mark.parametrize("where", BOUNDS)
@pytest.mark.parametrize("trained", ["last_block", "full", "none"])
@pytest.mark.parametrize(
    ("modality", "kind"), [("text", "clip"), ("image", "clip"), ("text", "bert")]
)
def test_kept_inputs_give_what_the_encoder_gives(tmp_path, modality, kind, trained, where):
    encoder, content = set_up(tmp_path, modality, trained, kind)
    inputs = tabulate(encoder, content, tmp_path, max_bytes=BOUNDS[where])
    assert inputs.where == where
    assert (tmp_path / f"{modality}_inputs.bin").exists() == (where == "file")
    wanted = content.indices[[4, 0, 2, 0]]
    expected = encoder.encode(encoder.prepare(content.get(wanted)))
    torch.testing.assert_close(inputs.encode(wanted), expected, rtol=1e-4, atol=1e-5)


def test_kept_inputs_follow_the_weights_that_move(tmp_path):
    encoder, content = set_up(tmp_path, "text", "last_block", "bert")
    inputs = tabulate(encoder, content, tmp_path)
    before = inputs.encode(content.indices)
    before.sum().backward()
    assert all(weight.grad is not None for weight in encoder.trained_parameters().values())
    with torch.no_grad():
        for weight in encoder.trained_parameters().values():
            weight.add_(0.1 * torch.ones_like(weight))
    after = inputs.encode(content.indices)
    assert not torch.allclose(before, after)
    expected = encoder.encode(encoder.prepare(content.get(content.indices)))
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)


def test_many_items_are_planned_by_length(tmp_path):
    encoder, content = set_up(tmp_path, "text", "last_block", "bert")
    inputs = tabulate(encoder, content, tmp_path)
    wanted = np.tile(content.indices, 20)
    chunks = inputs.plan(wanted, 64)
    assert sorted(np.concatenate(chunks).tolist()) == list(range(len(wanted)))
    assert max(map(len, chunks)) <= 64
    lengths = [inputs._parts.lengths_of(wanted[rows]) for rows in chunks]
    assert all(a.max() <= b.min() for a, b in itertools.pairwise(lengths))
    single = {int(index): inputs.encode(np.array([index])) for index in content.indices}
    for rows in chunks:
        expected = torch.cat([single[int(index)] for index in wanted[rows]])
        torch.testing.assert_close(inputs.encode(wanted[rows]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trained", ["last_block", "full"])
def test_half_precision_takes_half_the_space_and_little_of_the_value(tmp_path, trained):
    encoder, content = set_up(tmp_path, "image", trained, "clip")
    sizes, vectors = [], []
    for dtype in ("float32", "float16"):
        inputs = tabulate(encoder, content, tmp_path, dtype=dtype)
        sizes.append((tmp_path / "image_inputs.bin").stat().st_size)
        vectors.append(inputs.encode(content.indices))
    assert sizes[0] == 2 * sizes[1]
    assert vectors[1].dtype == torch.float32
    torch.testing.assert_close(vectors[1], vectors[0], rtol=0.02, atol=0.02)


def test_values_too_large_for_half_precision_say_so(tmp_path):
    encoder, content = set_up(tmp_path, "text", "last_block", "bert")
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if "layer.0.output.LayerNorm.weight" in name:
                weight.mul_(1e6)
    tabulate(encoder, content, tmp_path, dtype="float32")
    with pytest.raises(EncoderError, match=r"align_encoders\.cache_dtype = float16: take float32"):
        tabulate(encoder, content, tmp_path, dtype="float16")


def count_trunk_calls(encoder, monkeypatch):
    calls, original = [], encoder.trunk
    monkeypatch.setattr(encoder, "trunk", lambda inputs: calls.append(1) or original(inputs))
    return calls


def test_a_finished_file_is_used_again_and_only_by_the_same_encoder(tmp_path, monkeypatch):
    encoder, content = set_up(tmp_path, "text", "last_block", "bert")
    first = tabulate(encoder, content, tmp_path)
    calls = count_trunk_calls(encoder, monkeypatch)
    second = tabulate(encoder, content, tmp_path)
    assert not calls
    assert torch.equal(first.encode(content.indices), second.encode(content.indices))
    tabulate(encoder, content, tmp_path, dtype="float16")
    assert calls
    calls.clear()
    with torch.no_grad():
        next(encoder.parameters()).mul_(1.5)
    tabulate(encoder, content, tmp_path, dtype="float16")
    assert calls


@pytest.mark.parametrize("damage", ["no index", "cut short", "died while writing"])
def test_a_file_that_is_not_whole_is_made_anew(tmp_path, monkeypatch, damage):
    encoder, content = set_up(tmp_path, "text", "last_block", "bert")
    expected = tabulate(encoder, content, tmp_path).encode(content.indices)
    file, index = tmp_path / "text_inputs.bin", tmp_path / "text_inputs.npz"
    whole = file.read_bytes()
    if damage == "no index":
        index.unlink()
        file.write_bytes(bytes(len(whole)))
    elif damage == "cut short":
        file.write_bytes(whole[:-4])
    else:
        calls, original = [], encoder.trunk

        def die(inputs):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return original(inputs)

        with monkeypatch.context() as patch:
            patch.setattr(encoder, "trunk", die)
            file.write_bytes(whole[:-4])
            with pytest.raises(KeyboardInterrupt):
                tabulate(encoder, content, tmp_path)
        assert not index.exists()
    inputs = tabulate(encoder, content, tmp_path)
    assert torch.equal(inputs.encode(content.indices), expected)
    assert file.read_bytes() == whole


def test_a_damaged_index_counts_as_none(tmp_path, caplog):
    path, indices = tmp_path / "text_inputs.bin", np.array([1, 2], dtype=np.int32)
    with PartsWriter(path) as writer:
        writer.add(np.ones((2, 3, 4), dtype=np.float32), np.array([3, 2]))
        writer.finish(indices, "encoder")
    index = path.with_suffix(".npz")
    whole = index.read_bytes()
    turned = bytearray(whole)
    turned[whole.index("encoder".encode("utf-32-le"))] ^= 1
    for damaged in (b"", whole[:200], whole[:-1], bytes(len(whole)), turned):
        index.write_bytes(damaged)
        assert read_parts(path, indices, "encoder") is None
    assert caplog.text.count("text_inputs.npz is damaged and made anew") == 5
    index.write_bytes(whole)
    assert read_parts(path, indices, "encoder") is not None
    assert {file.name for file in tmp_path.iterdir()} == {path.name, index.name}


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    encoder, content = set_up(tmp_path, "text", "last_block", "bert")
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(ConfigError, match=r"max_cache_bytes.*10 bytes are free"):
        tabulate(encoder, content, tmp_path)


def test_the_bound_holds_even_where_the_estimate_is_too_low(tmp_path, monkeypatch):
    encoder, content = set_up(tmp_path, "text", "last_block", "bert")
    monkeypatch.setattr("sicsrec.training.item_inputs._estimate_bytes", lambda *_: 0)
    assert tabulate(encoder, content, tmp_path, max_bytes=1000).where == "computed"
    assert not (tmp_path / "text_inputs.bin").exists()
