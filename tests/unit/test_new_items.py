"""Items that came after training: vectors, scores, neighbours, audience."""

import json
from copy import copy
from dataclasses import replace
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

from sicsrec.config.encoders import OpenClipArchitectureConfig, OpenClipEncoderConfig
from sicsrec.data.vectors import unit_rows
from sicsrec.encoders.builder import build_encoder, save_encoder
from sicsrec.errors import ArtifactError, DataError
from sicsrec.models.blend import Blend
from sicsrec.models.new_items import BlendWithNewItems, NewItemVectors, content_of_new_items
from sicsrec.models.sicsrec import SICSRec
from sicsrec.recommender import ItemEncoders, Recommender
from sicsrec.recommender.audience import find_audience
from sicsrec.recommender.encoders import _is_nothing, _plain
from tests.unit.recommender_parts import HISTORY, load_tiny, new_items
from tests.unit.steps.tiny_store import N_ITEMS, histories_by_user


@pytest.fixture(scope="module")
def blended(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return load_tiny(tmp_path_factory.mktemp("blend"), "blend")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return load_tiny(tmp_path_factory.mktemp("plain"), "sicsrec")


def test_a_copy_of_a_known_item_gets_its_content(plain: Recommender) -> None:
    assert isinstance(plain.model, SICSRec)
    table = plain.model.content_embedding.adapters["text"].table.weight[1:].detach().numpy()
    copies = NewItemVectors(
        ("copy",), {"text": table[6:7].copy()}, {"text": np.ones(1, dtype=np.bool_)}
    )
    content = content_of_new_items(plain.model, copies)[1]
    torch.testing.assert_close(content[0], plain.model.content_vectors()[6])
    near = plain.neighbours_of_new(copies, k=N_ITEMS)
    expected = (plain.model.content_vectors() @ content[0]).detach().numpy()
    for row in near.to_dicts():
        column = plain.indices_of([row["item_id"]])[0] - 1
        assert row["similarity"] == pytest.approx(float(expected[column]), abs=1e-6)
    assert near["similarity"].is_sorted(descending=True)
    scores = plain.scorer_with(copies).score(plain.histories({"u": HISTORY}))
    assert plain.scorer_with(copies).basis == "content"
    assert float(scores[0, N_ITEMS]) == pytest.approx(float(scores[0, 6]), abs=1e-5)


def test_blend_keeps_the_known_scores_and_adds_the_features_of_a_cold_item(
    blended: Recommender,
) -> None:
    blend, new = blended.scorer, new_items()
    assert isinstance(blend, Blend)
    weights = dict.fromkeys((name for name, _ in blend.features(blended.histories({"u": HISTORY}))))
    rng = np.random.default_rng(4)
    full = Blend(blend.models, blend.facts, {name: rng.normal() for name in weights})
    histories = blended.histories({"u": HISTORY, "w": ["v01"]})
    scores = BlendWithNewItems(full, new).score(histories)
    assert scores.shape == (2, N_ITEMS + 2)
    assert torch.equal(scores[:, :N_ITEMS], full.score(histories))
    features = {name: values.numpy() for name, values in full.features(histories)}
    least = np.flatnonzero(full.facts.counts == full.facts.counts.min())
    unit = new.matrices["text"] / np.linalg.norm(new.matrices["text"], axis=1, keepdims=True)
    known = full.facts.vectors["text"]
    sicsrec = next(model for model in full.models if isinstance(model, SICSRec))
    pair = (torch.from_numpy(new.matrices["text"]), torch.ones(2, dtype=torch.bool))
    content = sicsrec.content_embedding.of_vectors({"text": pair}).detach()
    user = sicsrec.user_vectors(histories)
    for row in range(2):
        items = histories.of_user(row)
        expected = np.full(2, full.weights["cold"])
        for name in ("id_encoder", "sicsrec_raw", "sicsrec_normalised"):
            expected += full.weights[name] * features[name][row, least].mean()
        expected += full.weights["sicsrec_content"] * (
            (user[row] @ content.T).numpy() / sicsrec.temperature
        )
        last = unit @ known[items[-1] - 1]
        expected += (full.weights["last_text"] + full.weights["cold_text"]) * last
        expected += full.weights["history_text"] * (unit @ known[items - 1].mean(axis=0))
        np.testing.assert_allclose(scores[row, N_ITEMS:].numpy(), expected, rtol=1e-4, atol=1e-4)


def test_a_new_item_without_a_vector_is_as_like_as_the_mean_item(blended: Recommender) -> None:
    blend = blended.scorer
    assert isinstance(blend, Blend)
    plain = replace(blend.facts, vectors=blend.facts.vectors | {"image": image_vectors()})
    features = ("last_image", "history_image", "cold_image")
    histories = blended.histories({"u": HISTORY, "w": ["v01"]})
    for name in features:
        full = Blend(blend.models, plain, {name: 3.0})
        scores = BlendWithNewItems(full, new_items(1)).score(histories)
        asked = Blend(blend.models, plain, {name.replace("cold", "last"): 3.0}).score(histories)
        has_image = image_vectors().any(axis=1)
        np.testing.assert_allclose(
            scores[:, N_ITEMS].numpy(), asked[:, has_image].mean(dim=1).numpy(), rtol=1e-5
        )


def image_vectors() -> np.ndarray:
    """Unit vectors that nearly all point one way; one item has none."""
    matrix = np.random.default_rng(2).normal(10.0, size=(N_ITEMS, 3)).astype(np.float32)
    matrix[3] = 0.0
    return unit_rows(matrix)


def test_where_all_items_were_watched_the_least_watched_stand_in(blended: Recommender) -> None:
    blend = blended.scorer
    assert isinstance(blend, Blend)
    counts = np.full(N_ITEMS, 5)
    counts[[2, 7]] = 1
    watched = Blend(blend.models, replace(blend.facts, counts=counts), {"id_encoder": 2.0})
    histories = blended.histories({"u": HISTORY})
    scores = BlendWithNewItems(watched, new_items(1)).score(histories)
    assert float(scores[0, N_ITEMS]) == pytest.approx(float(scores[0, [2, 7]].mean()), abs=1e-6)


def test_new_items_are_ranked_among_the_others_and_may_be_all_that_is_asked(
    blended: Recommender,
) -> None:
    everything = blended.recommend(HISTORY, 50, new=new_items())
    assert everything.height == N_ITEMS - 3 + 2
    only = blended.recommend(HISTORY, 50, new=new_items(), only=["new-1", "v09"])
    assert set(only["item_id"]) == {"new-1", "v09"}
    order = [item for item in everything["item_id"] if item in ("new-1", "v09")]
    assert only["item_id"].to_list() == order


def test_what_a_user_has_watched_does_not_stand_before_a_new_item(blended: Recommender) -> None:
    """A blend that knows nothing but that watched items come first."""
    blend = blended.scorer
    assert isinstance(blend, Blend)
    watching = copy(blended)
    watching.scorer = Blend(blend.models, blend.facts, {"watched": 5.0, "cold": 1.0})
    audience = find_audience(watching, new_items(1), blended.histories({"u": HISTORY}), k=1)
    n_cold = int((blend.facts.counts == 0).sum())
    assert audience.users["rank"].to_list() == [1 + n_cold]


def test_audience_counts_as_ranking_every_user_does(blended: Recommender) -> None:
    new = new_items(1)
    histories = blended.histories(histories_by_user())
    audience = find_audience(blended, new, histories, k=3, n_users=4)
    places = {}
    for user, history in histories_by_user().items():
        ranked = blended.recommend(history, N_ITEMS + 1, new=new)["item_id"].to_list()
        places[user] = ranked.index("new-0") + 1
    assert audience.n_in_top_k == sum(place <= 3 for place in places.values())
    assert audience.users["rank"].to_list() == sorted(places.values())[:4]
    assert all(places[row["user_id"]] == row["rank"] for row in audience.users.to_dicts())


def test_vectors_that_do_not_fit_are_refused(plain: Recommender) -> None:
    for width in (3, 5):
        with pytest.raises(DataError, match=f"{width} wide, the model was trained on 4"):
            plain.neighbours_of_new(new_items(width=width))
    nothing = NewItemVectors(("n",), {}, {})
    with pytest.raises(DataError, match="none of what the model reads: text"):
        plain.scorer_with(nothing)
    known = NewItemVectors(("v01",), new_items(1).matrices, new_items(1).present)
    with pytest.raises(DataError, match="knows already"):
        plain.recommend(HISTORY, new=known)
    with pytest.raises(DataError, match="holds no encoders"):
        plain.encode(["n"], ["a film"])


ONES = np.ones((2, 4), dtype=np.float32)
BOTH = np.ones(2, dtype=np.bool_)


@pytest.mark.parametrize(
    ("ids", "matrices", "present", "words"),
    [
        ((), {}, {}, "list of different ids"),
        (("a", "a"), {"text": ONES}, {"text": BOTH}, "list of different ids"),
        (("a", "b"), {"text": ONES}, {}, r"matrices of \['text'\] and present of \[\]"),
        (("a", "b"), {}, {"text": BOTH}, r"matrices of \[\] and present of \['text'\]"),
        (("a", "b"), {"text": ONES[:1]}, {"text": BOTH}, r"shape \(2, width\).*got \(1, 4\)"),
        (("a",), {"text": ONES}, {"text": BOTH}, r"shape \(1, width\).*got \(2, 4\)"),
        (("a", "b"), {"text": ONES}, {"text": BOTH[:1]}, r"got \(2, 4\) and \(1,\)"),
        (("a", "b"), {"text": ONES[0]}, {"text": BOTH}, r"got \(4,\)"),
        (("a", "b"), {"text": ONES * np.nan}, {"text": BOTH}, "not finite"),
    ],
)
def test_new_items_that_do_not_fit_together_are_refused(ids, matrices, present, words) -> None:
    with pytest.raises(DataError, match=words):
        NewItemVectors(ids, matrices, present)


def test_vectors_of_ones_own_may_have_any_type_of_numbers(
    plain: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    new = new_items()
    doubles = NewItemVectors(
        new.item_ids,
        {"text": new.matrices["text"].astype(np.float64)},
        {"text": [1, 1]},  # type: ignore[dict-item]
    )
    found = plain.recommend(HISTORY, 50, new=doubles)
    assert found.equals(plain.recommend(HISTORY, 50, new=new))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> ItemEncoders:
    folder = tmp_path_factory.mktemp("encoders")
    shape = OpenClipArchitectureConfig(width=16, n_layers=1, n_heads=1, image_size=32)
    config = OpenClipEncoderConfig(library="open_clip", architecture=shape)
    save_encoder(build_encoder(config, "text", seed=0), folder / "text")
    save_encoder(build_encoder(config, "image", seed=0), folder / "image")
    limits = {"max_bytes": 100_000, "max_pixels": 1_000_000, "short_side": 64}
    content = {"normalise": True, "covers": limits}
    (folder / "encoding.json").write_text(json.dumps(content))
    return ItemEncoders.open(folder)


def test_texts_and_covers_become_vectors_of_their_own_items(
    encoders: ItemEncoders, tmp_path: Path
) -> None:
    cover = tmp_path / "a.png"
    Image.new("RGB", (40, 40), "red").save(cover)
    both = encoders.encode(["a", "b"], ["a long title about a reef", None], [None, cover])
    assert both.present["text"].tolist() == [True, False]
    assert both.present["image"].tolist() == [False, True]
    assert not both.matrices["text"][1].any()
    alone = encoders.encode(["b"], covers=[cover.read_bytes()])
    np.testing.assert_allclose(alone.matrices["image"][0], both.matrices["image"][1], atol=1e-6)
    assert np.linalg.norm(both.matrices["text"][0]) == pytest.approx(1.0, abs=1e-5)


def test_a_text_is_cleaned_as_ingest_does(encoders: ItemEncoders) -> None:
    assert _plain(" dure\u0301e\n at\u3000night", "a") == "dur\u00e9e at night"
    with pytest.raises(DataError, match="text of 'a' must be a string, got int"):
        encoders._encode("text", ("a",), [7], np.ones(1, dtype=np.bool_))
    # Of a pandas column.
    assert _is_nothing(float("nan"))
    assert _is_nothing(np.float32("nan"))


def _oriented(image: Image.Image) -> Image.Image:
    image.getexif()[0x0112] = 6
    return image


@pytest.mark.parametrize(
    "mode", ["RGB", "RGBA", "LA", "L", "I;16", "oriented", "wide", "transparent palette"]
)
def test_a_picture_gives_the_same_vector_as_image_and_as_file(
    encoders: ItemEncoders, tmp_path: Path, mode: str
) -> None:
    shape = (90, 200) if mode == "wide" else (70, 80)
    values = np.random.default_rng(2).integers(0, 256, (*shape, 4), dtype=np.uint8)
    rgba = Image.fromarray(values)
    path = tmp_path / "a.png"
    if mode == "I;16":
        picture = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    elif mode == "oriented":
        picture = _oriented(rgba.convert("RGB"))
    elif mode == "transparent palette":
        picture = rgba.convert("RGB").quantize(8)
        picture.info["transparency"] = 0
    else:
        picture = rgba.convert("RGB" if mode == "wide" else mode)
    picture.save(path, exif=picture.getexif())
    by_path = encoders.encode(["a"], covers=[str(path)]).matrices["image"]
    with Image.open(path) as opened:
        by_opened = encoders.encode(["a"], covers=[opened]).matrices["image"]
    by_image = encoders.encode(["a"], covers=[picture]).matrices["image"]
    np.testing.assert_array_equal(by_image, by_path)
    np.testing.assert_array_equal(by_opened, by_path)


def test_an_image_has_the_limits_of_a_file(encoders: ItemEncoders) -> None:
    with pytest.raises(DataError, match="too_many_pixels"):
        encoders.encode(["a"], covers=[Image.new("RGB", (2000, 600))])


def test_what_cannot_be_encoded_is_named(encoders: ItemEncoders, tmp_path: Path) -> None:
    broken = tmp_path / "a.jpg"
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match="cover of 'a' cannot be used"):
        encoders.encode(["a"], covers=[broken])
    with pytest.raises(DataError, match="cannot be used"):
        encoders.encode(["a"], covers=[tmp_path / "missing.jpg"])
    broken.write_bytes(b"x" * 100_001)
    with pytest.raises(DataError, match="max_cover_bytes"):
        encoders.encode(["a"], covers=[broken])
    with pytest.raises(DataError, match="2 new items but 1 of text"):
        encoders.encode(["a", "b"], ["one"])
    with pytest.raises(DataError, match="needs a text or a cover"):
        encoders.encode(["a", "b"], ["one", " "])
    with pytest.raises(DataError, match="different ids"):
        encoders.encode(["a", "a"], ["one", "two"])
    with pytest.raises(ArtifactError, match=r"encoding\.json"):
        ItemEncoders.open(tmp_path)
