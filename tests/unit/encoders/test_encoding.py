import pickle
import threading

import numpy as np
import pytest
import torch

from sicsrec.encoders.builder import build_encoder
from sicsrec.encoders.content import open_content
from sicsrec.encoders.encoding import EncodingSettings, encode_content, encode_shards
from sicsrec.encoders.preparation import count_workers
from sicsrec.errors import EncoderError
from sicsrec.progress import NoProgress
from tests.unit.stage_one import (
    SMALL_CLIP,
    bert,
    make_catalog,
    save_tiny_bert,
    save_tiny_vit,
    write_covers,
)


def set_up(root, modality="image", config=SMALL_CLIP):
    catalog = make_catalog()
    write_covers(root / "covers", catalog)
    return build_encoder(config, modality, seed=0), open_content(modality, catalog, root / "covers")


def encode(encoder, content, work, shard_items=3, **values):
    settings = EncodingSettings(**{"batch_size": 2, "normalise": True, **values})
    shards = encode_shards(
        encoder, content, settings, shard_items=shard_items, work=work, progress=NoProgress()
    )
    return np.concatenate(list(shards))


@pytest.mark.parametrize("modality", ["text", "image"])
@pytest.mark.parametrize("shard_items", [1, 3, 100])
def test_shards_hold_what_encoding_at_once_gives(tmp_path, modality, shard_items):
    encoder, content = set_up(tmp_path, modality)
    indices, expected = encode_content(encoder, content, batch_size=4, normalise=True)
    assert indices.tolist() == content.indices.tolist()
    found = encode(encoder, content, tmp_path, shard_items)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_finished_shards_are_not_encoded_again(tmp_path, monkeypatch):
    encoder, content = set_up(tmp_path)
    expected = encode(encoder, content, tmp_path)
    (tmp_path / "image-00001.npy").unlink()
    np.save(tmp_path / "image-00002.npy", np.zeros((1, 1), dtype=np.float32))
    asked, original = [], content.get
    monkeypatch.setattr(content, "get", lambda some: asked.extend(some) or original(some))
    np.testing.assert_array_equal(encode(encoder, content, tmp_path), expected)
    assert sorted(asked) == content.indices[3:].tolist()


def test_other_processes_prepare_the_same_even_for_a_thread(tmp_path):
    encoder, content = set_up(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    expected, found = encode(encoder, content, tmp_path / "a"), []
    state = torch.get_rng_state()
    thread = threading.Thread(
        target=lambda: found.append(encode(encoder, content, tmp_path / "b", n_workers=2))
    )
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], expected)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("modality", ["text", "image"])
@pytest.mark.parametrize("library", ["open_clip", "transformers"])
def test_what_prepares_items_can_be_sent_to_another_process(tmp_path, modality, library):
    save = save_tiny_bert if modality == "text" else save_tiny_vit
    config = SMALL_CLIP if library == "open_clip" else bert(save(tmp_path / "model"))
    encoder, content = set_up(tmp_path, modality, config)
    prepare, items = encoder.preparer(), content.get(content.indices)
    sent = pickle.loads(pickle.dumps(prepare))(items)  # noqa: S301 - written the moment before
    assert torch.equal(sent.values, encoder.prepare(items).values)
    assert torch.equal(sent.lengths, encoder.prepare(items).lengths)


def test_workers_are_for_accelerators_unless_asked_for():
    assert count_workers(None, torch.device("cpu"), 1000) == 0
    assert count_workers(3, torch.device("cpu"), 1000) == 3
    assert 1 <= count_workers(None, torch.device("cuda"), 1000) <= 8
    # They would be done before a process has started.
    assert count_workers(None, torch.device("cuda"), 7) == 0
    assert count_workers(None, torch.device("cuda"), 8) == 1


def test_half_precision_vectors_are_the_rounded_ones(tmp_path):
    encoder, content = set_up(tmp_path, "text", bert(save_tiny_bert(tmp_path / "bert")))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    full = encode(encoder, content, tmp_path / "a")
    half = encode(encoder, content, tmp_path / "b", dtype="float16")
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, full.astype(np.float16))


def test_shards_of_another_precision_are_made_anew(tmp_path):
    encoder, content = set_up(tmp_path)
    half = encode(encoder, content, tmp_path, dtype="float16")
    full = encode(encoder, content, tmp_path)
    assert (half.dtype, full.dtype) == (np.float16, np.float32)
    assert not np.array_equal(full, half)


def test_numbers_too_large_for_half_precision_are_an_error(tmp_path):
    encoder, content = set_up(tmp_path)
    with torch.no_grad():
        encoder.tower.proj.mul_(1e6)
    with pytest.raises(EncoderError, match="too large"):
        encode(encoder, content, tmp_path, dtype="float16", normalise=False)
    assert np.isfinite(encode(encoder, content, tmp_path, dtype="float16")).all()


def test_bfloat16_is_close_and_automatic_on_accelerators_only(tmp_path):
    encoder, content = set_up(tmp_path)
    results = {}
    for precision in ("float32", "auto", "bfloat16"):
        (tmp_path / precision).mkdir()
        results[precision] = encode(encoder, content, tmp_path / precision, precision=precision)
    np.testing.assert_array_equal(results["auto"], results["float32"])
    assert not np.array_equal(results["bfloat16"], results["float32"])
    np.testing.assert_allclose(results["bfloat16"], results["float32"], atol=0.03)
