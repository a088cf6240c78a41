import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from sicsrec.encoders.adapters import LossAdapter
from sicsrec.encoders.builder import build_encoder
from sicsrec.training import alignment_quality
from sicsrec.training.alignment_plots import plot_modalities
from sicsrec.training.alignment_quality import measure_quality
from sicsrec.training.pair_batches import Pairs
from sicsrec.training.tower import Tower
from tests.unit.stage_one import SMALL_CLIP

WITHOUT_IMAGE = (3, 7)


class Given:
    """Inputs whose vectors are given; longest first, to see that the order is put right."""

    where = "file"

    def __init__(self, vectors):
        self.vectors = vectors

    def plan(self, indices, at_a_time):
        return np.array_split(np.arange(len(indices))[::-1], 2)

    def encode(self, indices):
        return self.vectors[torch.from_numpy(indices).long()]


def make_towers(n_items=8):
    generator = torch.Generator().manual_seed(0)
    towers = {}
    for name in ("text", "image"):
        encoder = build_encoder(SMALL_CLIP, name, seed=0)
        has_it = np.ones(n_items + 1, dtype=np.bool_)
        has_it[0] = False
        if name == "image":
            has_it[list(WITHOUT_IMAGE)] = False
        vectors = torch.randn(n_items + 1, encoder.dim, generator=generator)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            adapter = LossAdapter(encoder.dim, 8, 4)
        towers[name] = Tower(encoder, adapter, Given(vectors), has_it, np.arange(n_items + 1))
    return towers


def measure(towers, both_aside=()):
    both = np.array([1, 2, 4, 5, 6, 8], dtype=np.int32)
    aside = Pairs(
        np.array([1, 5], dtype=np.int32), np.array([2, 3], dtype=np.int32), (both[:0], both[:0])
    )
    return measure_quality(towers, aside, both, np.array(both_aside, dtype=np.int32), seed=0)


def naive_uniformity(unit):
    terms = [
        math.exp(-2 * float((a - b).square().sum()))
        for i, a in enumerate(unit)
        for j, b in enumerate(unit)
        if i != j
    ]
    return math.log(sum(terms) / len(terms))


def test_numbers_are_those_of_a_loop():
    towers = make_towers()
    quality = measure(towers)
    text = functional.normalize(towers["text"].inputs.vectors, dim=1)
    expected = ((text[1] - text[2]).square().sum() + (text[5] - text[3]).square().sum()) / 2
    assert quality.numbers["t2t_alignment"] == pytest.approx(float(expected), abs=1e-4)
    assert quality.numbers["text_uniformity"] == pytest.approx(naive_uniformity(text[1:]), abs=1e-4)
    image = functional.normalize(towers["image"].inputs.vectors, dim=1)
    # Of the two pairs held aside the second has no image of its positive.
    expected = (image[1] - image[2]).square().sum()
    assert quality.numbers["v2v_alignment"] == pytest.approx(float(expected), abs=1e-4)
    rows = [1, 2, 4, 5, 6, 8]
    adapted = {n: t.adapter(t.inputs.vectors)[rows].detach() for n, t in towers.items()}
    distance = (adapted["text"] - adapted["image"]).square().sum(dim=1).mean()
    assert quality.numbers["t2v_alignment"] == pytest.approx(float(distance), abs=1e-4)
    for name, vectors in adapted.items():
        expected = naive_uniformity(vectors)
        assert quality.numbers[f"adapted_{name}_uniformity"] == pytest.approx(expected, abs=1e-4)
    np.testing.assert_allclose(quality.text, adapted["text"].numpy(), rtol=1e-5)
    np.testing.assert_allclose(quality.image, adapted["image"].numpy(), rtol=1e-5)
    assert "held_out_t2v_recall_at_1" not in quality.numbers


def test_a_positive_is_looked_for_among_all_items_but_the_anchor():
    """Ties count against it, so one place for all items finds nothing."""
    towers = make_towers()
    text = functional.normalize(towers["text"].inputs.vectors, dim=1)
    ranks = []
    for anchor, positive in ((1, 2), (5, 3)):
        others = [item for item in range(1, 9) if item not in (anchor, positive)]
        own = float(text[anchor] @ text[positive])
        ranks.append(sum(float(text[anchor] @ text[item]) >= own for item in others))
    numbers = measure(towers).numbers
    assert numbers["t2t_recall_at_1"] == np.mean([rank < 1 for rank in ranks])
    towers["text"].inputs.vectors[2] = towers["text"].inputs.vectors[1]
    assert measure(towers).numbers["t2t_recall_at_1"] >= 0.5, "the copy of its anchor is found"
    towers["text"].inputs.vectors[:] = 1.0
    assert measure(towers).numbers["t2t_recall_at_1"] == 0.0


def test_twins_are_nobodys_rivals():
    """Items that look the same to an encoder cannot be told apart, and the losses do not try."""
    towers = make_towers()
    for tower in towers.values():
        tower.content_of[[3, 4]] = tower.content_of[[1, 2]]
    text = towers["text"].inputs.vectors
    text[[1, 2]] = torch.randn(text.shape[1], generator=torch.Generator().manual_seed(5))
    text[[3, 4]] = text[[1, 2]]
    # The anchor's twin is as near as the positive, and so is the positive's.
    assert measure(towers).numbers["t2t_recall_at_1"] >= 0.5
    for tower in towers.values():
        tower.content_of[:] = np.arange(9)
    assert measure(towers).numbers["t2t_recall_at_1"] == 0.0


def test_recall_across_modalities_leaves_twins_out():
    towers = make_towers()
    both = [1, 2, 4, 5, 6, 8]
    for tower in towers.values():
        tower.content_of[2] = tower.content_of[1]
    quality = measure(towers)
    scores = quality.text @ quality.image.T
    found = []
    for row, item in enumerate(both):
        rivals = [
            column for column, other in enumerate(both)
            if column != row and {item, other} != {1, 2}
        ]  # fmt: skip
        found.append(all(scores[row, column] < scores[row, row] for column in rivals))
    assert quality.numbers["t2v_recall_at_1"] == pytest.approx(np.mean(found), abs=1e-5)


def test_items_held_out_are_asked_about_apart():
    towers = make_towers()
    quality = measure(towers, both_aside=(4, 8))
    rows = [1, 2, 4, 5, 6, 8]
    scores = torch.from_numpy(quality.text @ quality.image.T)
    is_first = (scores.argmax(dim=1) == torch.arange(6)).double()
    assert quality.numbers["t2v_recall_at_1"] == pytest.approx(float(is_first.mean()), abs=1e-5)
    asked = is_first[[rows.index(4), rows.index(8)]].mean()
    assert quality.numbers["held_out_t2v_recall_at_1"] == pytest.approx(float(asked), abs=1e-5)
    assert quality.numbers["held_out_v2t_recall_at_10"] == 1.0


def test_items_held_out_are_in_the_sample_however_small_it_is(monkeypatch):
    monkeypatch.setattr(alignment_quality, "MAX_ITEMS", 3)
    quality = measure(make_towers(), both_aside=(4, 8))
    assert {4, 8} <= set(quality.items)
    assert quality.numbers["items_ranked"] < 8


def test_the_picture_joins_the_two_vectors_of_an_item():
    quality = measure(make_towers())
    first, second = plot_modalities(quality, quality).axes
    assert first.get_title().startswith("before: gap ")
    assert second.get_title().startswith("after: gap ")
    (lines, text, image) = first.collections
    assert len(lines.get_segments()) == len(text.get_offsets()) == len(quality.text)
    for segment, start, end in zip(
        lines.get_segments(), text.get_offsets(), image.get_offsets(), strict=True
    ):
        np.testing.assert_allclose(segment, [start, end])
