import json

import numpy as np
import polars as pl
import pytest
import torch

from sicsrec.artifacts import digest_folder
from sicsrec.data.vectors import read_vectors
from sicsrec.encoders.builder import load_encoder
from sicsrec.encoders.content import open_content
from sicsrec.errors import DataError, EncoderError
from sicsrec.steps import encode_items, get_step
from sicsrec.steps.runner import step_identity
from tests.unit.stage_one import WITHOUT_COVER, make_catalog
from tests.unit.steps.stage_one_store import World


def encoded(root, **sections):
    world = World(root, **sections)
    for name in ("sample_pairs", "align_encoders"):
        world.run(name)
    return world, world.run("encode_items"), world.path("encode_items/vectors")


def description(folder):
    return json.loads((folder / "vectors.json").read_text())["modalities"]


def test_every_item_with_the_modality_has_its_own_vector(tmp_path):
    world, report, folder = encoded(tmp_path)
    text = read_vectors(folder, "text", world.catalog)
    image = read_vectors(folder, "image", world.catalog)
    assert np.flatnonzero(~text.present).tolist() == [7]
    assert np.flatnonzero(~image.present).tolist() == sorted(WITHOUT_COVER)
    assert report.rows == 9 + 8
    encoders = world.path("align_encoders/encoders")
    for vectors in (text, image):
        encoder = load_encoder(encoders / vectors.modality)
        content = open_content(vectors.modality, world.catalog, world.path("ingest/covers"))
        for index in content.indices:
            with torch.no_grad():
                single = encoder.encode(encoder.prepare(content.get(np.array([index]))))[0].numpy()
            expected = single / np.linalg.norm(single)
            np.testing.assert_allclose(vectors.matrix[index - 1], expected, rtol=1e-4, atol=1e-5)


def test_the_description_says_how_they_were_made(tmp_path):
    world, report, folder = encoded(tmp_path, encode_items={"normalise": False, "batch_size": 4})
    text, image = (description(folder)[name] for name in ("text", "image"))
    encoders = world.path("align_encoders/encoders")
    assert text["encoder_digest"] == digest_folder(encoders / "text")
    assert (text["library"], text["pooling"], text["dim"]) == ("transformers", "mean", 16)
    assert text["normalised"] is False
    assert (text["items"], text["items_without"]) == (9, 1)
    assert (image["items"], image["items_without"]) == (8, 2)
    assert image["preprocessing"]["size"] == 16
    assert report.content["modalities"]["image"] == image
    matrix = read_vectors(folder, "text", world.catalog)
    assert not np.allclose(np.linalg.norm(matrix.matrix[matrix.present], axis=1), 1.0)


def test_text_alone_writes_text_alone(tmp_path):
    _, _, folder = encoded(tmp_path, align_encoders={"image_encoder": None})
    assert sorted(path.name for path in folder.iterdir()) == ["text.parquet", "vectors.json"]


def test_again_gives_the_same_bytes(tmp_path):
    world, _, _ = encoded(tmp_path)
    first = world.refs["encode_items/vectors"].digest
    world.run("encode_items", refresh=True)
    assert world.refs["encode_items/vectors"].digest == first


def test_half_precision_is_written_and_read(tmp_path):
    world, _, folder = encoded(tmp_path, encode_items={"dtype": "float16"})
    assert description(folder)["text"]["dtype"] == "float16"
    assert pl.read_parquet_schema(folder / "text.parquet")["vector"] == pl.Array(pl.Float16, 16)
    vectors = read_vectors(folder, "text", world.catalog)
    assert vectors.matrix.dtype == np.float32
    lengths = np.linalg.norm(vectors.matrix[vectors.present], axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=2e-3)


def test_how_many_processes_decode_is_no_reason_to_run_again(tmp_path):
    keys = []
    for n_workers, batch_size in ((0, 4), (2, 4), (0, 5)):
        values = {"n_workers": n_workers, "batch_size": batch_size}
        world = World(tmp_path / str(len(keys)), encode_items=values)
        refs = {entry.name: world.refs["split/train"] for entry in get_step("encode_items").inputs}
        keys.append(step_identity(get_step("encode_items"), world.config, refs))
    assert keys[0] == keys[1] != keys[2]


def numbered():
    catalog = make_catalog()
    ids = pl.Series("item_id", [str(9 - row) for row in range(10)])
    statuses = pl.Series("image_status", ["missing"] * 10)
    return type(catalog)(catalog.frame.with_columns(ids, statuses))


def given(root, matrix, normalise=True, dtype="float32", **files):
    root.mkdir(exist_ok=True)
    path = root / "mine.npy"
    np.save(path, matrix)
    names = files or {"text": str(path)}
    source = {"kind": "given", **names}
    histories = {"u": ["9", "8"]}
    return World(
        root,
        catalog=numbered(),
        histories=histories,
        encode_items={"source": source, "normalise": normalise, "dtype": dtype},
    )


MATRIX = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)


def test_given_vectors_take_the_place_of_stage_one(tmp_path):
    world = given(tmp_path, MATRIX, normalise=False)
    report = world.run("encode_items")
    folder = world.path("encode_items/vectors")
    vectors = read_vectors(folder, "text", world.catalog)
    np.testing.assert_array_equal(vectors.matrix, MATRIX[::-1])
    assert description(folder)["text"]["file"] == "mine.npy"
    assert report.rows == 10
    assert not (folder / "image.parquet").exists()


def test_given_vectors_are_normalised(tmp_path):
    world = given(tmp_path, 5 * MATRIX)
    world.run("encode_items")
    vectors = read_vectors(world.path("encode_items/vectors"), "text", world.catalog)
    np.testing.assert_allclose(np.linalg.norm(vectors.matrix, axis=1), 1.0, rtol=1e-5)


def test_ordinary_given_vectors_are_divided_by_their_length_to_the_bit(tmp_path):
    world = given(tmp_path, MATRIX)
    world.run("encode_items")
    vectors = read_vectors(world.path("encode_items/vectors"), "text", world.catalog)
    expected = MATRIX / np.linalg.norm(MATRIX, axis=1, keepdims=True)
    np.testing.assert_array_equal(vectors.matrix, expected[::-1])


@pytest.mark.parametrize("scale", [1e20, 3e37, 1e-25, 1e-42])
def test_given_vectors_of_any_size_are_normalised(tmp_path, scale):
    matrix = MATRIX.copy()
    matrix[3] = np.float32(scale) * np.array([1, -2, 2, 4], dtype=np.float32)
    world = given(tmp_path, matrix)
    world.run("encode_items")
    vectors = read_vectors(world.path("encode_items/vectors"), "text", world.catalog)
    np.testing.assert_allclose(vectors.matrix[6], [0.2, -0.4, 0.4, 0.8], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors.matrix, axis=1), 1.0, rtol=1e-5)


def test_a_second_modality_is_read_too(tmp_path):
    path = str(tmp_path / "mine.npy")
    world = given(tmp_path, MATRIX, text=path, image=path)
    assert world.run("encode_items").rows == 20


def test_given_vectors_without_length_are_an_error_not_nan(tmp_path):
    matrix = MATRIX.copy()
    matrix[3] = 0.0
    with pytest.raises(DataError, match=r"mine\.npy: 1 vectors have no length.*'3'"):
        given(tmp_path, matrix).run("encode_items")
    assert given(tmp_path / "raw", matrix, normalise=False).run("encode_items").rows == 10


def test_given_vectors_too_large_for_half_precision_are_an_error(tmp_path):
    world = given(tmp_path, 1e6 * MATRIX, normalise=False, dtype="float16")
    with pytest.raises(DataError, match="too large"):
        world.run("encode_items")


def test_where_given_vectors_lie_is_no_part_of_the_key(tmp_path):
    worlds = [given(tmp_path / name, MATRIX) for name in ("a", "b")]
    for world in worlds:
        world.run("encode_items")
    first, second = (world.refs["encode_items/vectors"] for world in worlds)
    assert (first.key, first.digest) == (second.key, second.digest)


def test_given_vectors_that_do_not_fit_are_an_error(tmp_path):
    with pytest.raises(DataError, match="no vector"):
        given(tmp_path, MATRIX[:9]).run("encode_items")


def test_an_encoder_that_gives_no_number_is_an_error(tmp_path, monkeypatch):
    world = World(tmp_path)
    for name in ("sample_pairs", "align_encoders"):
        world.run(name)
    original = encode_items.load_encoder

    def broken(folder, device):
        encoder = original(folder, device)
        with torch.no_grad():
            next(encoder.parameters()).fill_(float("nan"))
        return encoder

    monkeypatch.setattr(encode_items, "load_encoder", broken)
    with pytest.raises(EncoderError, match="not finite"):
        encode_items.run(world.context("encode_items"))
