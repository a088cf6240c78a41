"""The losses of stage 1 against loops that follow their equations term by term."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from sicsrec.encoders.losses import (
    Remembered,
    batch_negatives,
    cross_modal_contrast,
    pair_contrast,
)
from sicsrec.training.memory_bank import MemoryBank
from sicsrec.training.objective import Objective
from sicsrec.training.pair_batches import PAIR_TERMS, Batch
from sicsrec.training.tower import Tower


def naive_pair_contrast(vectors, pairs, own_negatives, known, present, temperature):
    """Pairs are (anchor, positive) rows; negatives and known positives are sets of rows."""
    losses = []
    targets = {positive for _, positive in pairs}
    for (anchor, positive), own, similar in zip(pairs, own_negatives, known, strict=True):
        negatives = (targets | own) - similar - {anchor, positive}
        negatives = [row for row in negatives if present[row]]
        if not (present[anchor] and present[positive] and negatives):
            continue

        def term(row, anchor=anchor):
            cosine = sum(float(a * vectors[row][k]) for k, a in enumerate(vectors[anchor]))
            return math.exp(cosine / temperature)

        losses.append(-math.log(term(positive) / (term(positive) + sum(map(term, negatives)))))
    return sum(losses) / len(losses) if losses else None


def naive_cross_modal(text, image, ids, present, temperature):
    rows = [row for row in range(len(ids)) if present[row]]
    if len({ids[row] for row in rows}) < 2:
        return None

    def term(i, j):
        return math.exp(float(text[i] @ image[j]) / temperature)

    total = 0.0
    for i in rows:
        others = [j for j in rows if j == i or ids[j] != ids[i]]
        total -= math.log(term(i, i) / sum(term(i, j) for j in others))
        total -= math.log(term(i, i) / sum(term(j, i) for j in others))
    return total / (2 * len(rows))


def unit(n, width, seed):
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(n, width, generator=generator).double(), dim=1)


def mark(sets, n):
    marks = torch.zeros(len(sets), n, dtype=torch.bool)
    for row, items in enumerate(sets):
        marks[row, list(items)] = True
    return marks


CASES = {
    "plain": (6, [(0, 1), (2, 3), (4, 5)], [set(), set(), set()], [{1}, {3}, {5}], range(6)),
    "batch of two": (4, [(0, 1), (2, 3)], [set(), set()], [{1}, {3}], range(4)),
    "one pair, own negatives": (4, [(0, 1)], [{2, 3}], [{1}], range(4)),
    "one pair, nothing else": (2, [(0, 1)], [set()], [{1}], range(2)),
    "shared positive": (5, [(0, 4), (1, 4), (2, 3)], [set()] * 3, [{4}, {4}, {3}], range(5)),
    "doubled pair": (4, [(0, 1), (0, 1), (2, 3)], [set()] * 3, [{1}, {1}, {3}], range(4)),
    "two positives of an anchor": (
        5, [(0, 1), (0, 2), (3, 4)], [set()] * 3, [{1, 2}, {1, 2}, {4}], range(5)
    ),
    "positives in a circle": (3, [(0, 1), (1, 2), (2, 0)], [set()] * 3, [{1}, {2}, {0}], range(3)),
    "known beats the judge": (4, [(0, 1), (2, 3)], [{3}, {1}], [{1, 3}, {3}], range(4)),
    "anchor among its negatives": (4, [(0, 1), (2, 3)], [{0}, {2}], [{1}, {3}], range(4)),
    "missing modality": (7, [(0, 1), (2, 3), (4, 5)], [{6}, {6}, set()], [{1}, {3}, {5}],
                         [0, 1, 3, 4, 5]),
    "negatives all missing": (4, [(0, 1), (2, 3)], [set(), set()], [{1}, {3}], [0, 1]),
    "nobody there": (4, [(0, 1), (2, 3)], [set(), set()], [{1}, {3}], []),
}  # fmt: skip


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_pair_contrast_follows_its_equation(case, temperature):
    n, pairs, own, known, there = case
    vectors = unit(n, 7, seed=n)
    present = torch.zeros(n, dtype=torch.bool)
    present[list(there)] = True
    anchors, positives = torch.tensor(pairs).T
    negatives = batch_negatives(anchors, positives, mark(own, n), mark(known, n))
    loss = pair_contrast(vectors, anchors, positives, negatives, present, temperature)
    expected = naive_pair_contrast(vectors, pairs, own, known, present.tolist(), temperature)
    assert (loss is None) == (expected is None)
    assert loss is None or float(loss) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize(
    ("ids", "there"),
    [
        ([1, 2, 3, 4, 5], [True] * 5),
        ([1, 2], [True, True]),
        ([1, 2, 1, 3, 1], [True] * 5),
        ([1, 2, 3, 4], [True, False, True, False]),
        ([1, 1, 1], [True] * 3),
        ([1, 2, 3], [True, False, False]),
        ([1, 2, 3], [False] * 3),
    ],
)
def test_cross_modal_contrast_follows_its_equation(ids, there, temperature):
    text, image = unit(len(ids), 5, seed=1), unit(len(ids), 5, seed=2)
    present = torch.tensor(there)
    same = torch.tensor(ids)[:, None] == torch.tensor(ids)
    loss = cross_modal_contrast(text, image, same, present, temperature)
    expected = naive_cross_modal(text, image, ids, there, temperature)
    assert (loss is None) == (expected is None)
    assert loss is None or float(loss) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_anchor_is_in_no_denominator():
    """With the anchor's own similarity of 1 in it, no loss could come near 0."""
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    anchors, positives = torch.tensor([0, 2]), torch.tensor([1, 3])
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    negatives = batch_negatives(anchors, positives, nothing, nothing)
    everyone = torch.ones(4, dtype=torch.bool)
    assert float(pair_contrast(vectors, anchors, positives, negatives, everyone, 0.05)) < 1e-6


def test_small_temperatures_do_not_overflow():
    vectors = unit(6, 4, seed=0).float().requires_grad_()
    anchors, positives = torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5])
    nothing = torch.zeros(3, 6, dtype=torch.bool)
    negatives = batch_negatives(anchors, positives, nothing, nothing)
    everyone = torch.ones(6, dtype=torch.bool)
    loss = pair_contrast(vectors, anchors, positives, negatives, everyone, 1e-4)
    loss = loss + cross_modal_contrast(vectors, vectors, torch.eye(6).bool(), everyone, 1e-4)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(vectors.grad).all()


def test_absent_rows_neither_count_nor_get_gradients():
    vectors = unit(5, 4, seed=3).float()
    vectors[4] = float("nan")
    vectors.requires_grad_()
    present = torch.tensor([True, True, True, True, False])
    anchors, positives = torch.tensor([0, 2, 0]), torch.tensor([1, 3, 4])
    nothing = torch.zeros(3, 5, dtype=torch.bool)
    negatives = batch_negatives(anchors, positives, nothing, nothing)
    loss = pair_contrast(vectors, anchors, positives, negatives, present, 0.05)
    loss = loss + cross_modal_contrast(vectors, vectors, torch.eye(5).bool(), present, 0.05)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.equal(vectors.grad[4], torch.zeros(4))
    assert (vectors.grad[:4] != 0).any()


def exp_cosine(a, b, temperature):
    return math.exp(sum(float(x * y) for x, y in zip(a, b, strict=True)) / temperature)


def naive_pairs_with_bank(vectors, pairs, content, bank, known, temperature):
    """Items are their row; ``bank`` holds (item, content, vector), oldest first."""
    losses = []
    targets = {positive for _, positive in pairs}
    for (anchor, positive), similar in zip(pairs, known, strict=True):
        alike = {content[anchor], content[positive]}
        total = own = exp_cosine(vectors[anchor], vectors[positive], temperature)
        for row in targets - similar - {anchor, positive}:
            if content[row] not in alike:
                total += exp_cosine(vectors[anchor], vectors[row], temperature)
        for item, what, vector in bank:
            if item not in range(len(vectors)) and item not in similar and what not in alike:
                total += exp_cosine(vectors[anchor], vector, temperature)
        if total > own:
            losses.append(-math.log(own / total))
    return sum(losses) / len(losses)


def naive_cross_modal_with_bank(text, image, content, bank_text, bank_image, temperature, left_out):
    """``bank_*`` hold (item, content, vector); items left out lack one, or were held aside."""
    rows = [row for row in range(len(text)) if row not in left_out]
    total = 0.0
    for i in rows:
        for mine, theirs, bank in ((text, image, bank_image), (image, text, bank_text)):
            own = denominator = exp_cosine(mine[i], theirs[i], temperature)
            for j in rows:
                if content[j] != content[i]:
                    denominator += exp_cosine(mine[i], theirs[j], temperature)
            for item, what, vector in bank:
                if item not in range(len(text)) and item not in left_out and what != content[i]:
                    denominator += exp_cosine(mine[i], vector, temperature)
            total -= math.log(own / denominator)
    return total / (2 * len(rows))


class OneTower(Tower):
    """What the objective asks of a tower, for items whose vectors are given."""

    device = torch.device("cpu")

    def __init__(self, content):
        self.content_of = np.array(content, dtype=np.int64)
        self.has_modality = np.ones(len(content), dtype=np.bool_)


NOBODY, IN_BATCH, IN_BANK, BOTH = set(), {2}, {9}, {2, 9}


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize(
    ("modalities", "aside", "without_image"),
    [
        (("text",), NOBODY, NOBODY),
        (("text", "image"), NOBODY, NOBODY),
        (("text", "image"), IN_BATCH, NOBODY),
        (("text", "image"), IN_BANK, NOBODY),
        (("text", "image"), BOTH, {4}),
        (("text", "image"), NOBODY, {4, 9, 10}),
    ],
)
def test_the_memory_bank_follows_its_equations(temperature, modalities, aside, without_image):
    """Six items in the batch; 3 and 5 share their text, 1 and 4 their cover; the bank has two of
    the batch, one known to be similar to an anchor, one with an anchor's text, and strangers."""
    pairs = [(0, 1), (2, 3), (4, 5)]
    similar = [{1, 8}, {3}, {5, 7}]
    content = {"text": [0, 1, 2, 3, 4, 3, 6, 7, 8, 2, 10], "image": [0, 1, 2, 3, 1, *range(5, 11)]}
    batch = Batch(
        np.arange(6, dtype=np.int32),
        np.array([0, 2, 4]),
        np.array([1, 3, 5]),
        np.zeros((3, 6), dtype=np.bool_),
        mark(similar, 9)[:, :6].numpy(),
        tuple(np.array(sorted(items), dtype=np.int64) for items in similar),
    )
    towers = {name: OneTower(content[name]) for name in modalities}
    banks, encoded, memory = {}, {}, {}
    for seed, name in enumerate(modalities):
        banks[name] = MemoryBank(6, 10, 5, torch.device("cpu"))
        kept, old = np.array([10, 9, 3, 8, 7, 0]), unit(6, 5, seed=10 + seed)
        banks[name]._vectors = banks[name]._vectors.double()
        banks[name].add(kept, old, step=0)
        memory[name] = [(i, content[name][i], v) for i, v in zip(kept, old, strict=True)]
        encoded[name] = unit(6, 5, seed=20 + seed)
    takes_part = np.ones(11, dtype=np.bool_)
    takes_part[list(aside)] = False
    if without_image:
        towers["image"].has_modality[list(without_image)] = False
    objective = Objective(towers, takes_part, temperature, banks)
    terms = objective.terms(batch, encoded)
    for name in modalities:
        if name == "image" and without_image:
            continue  # such items are in no bank of images, which the loop below does not know
        expected = naive_pairs_with_bank(
            encoded[name], pairs, content[name], memory[name], similar, temperature
        )
        assert float(terms[f"loss_{PAIR_TERMS[name]}"]) == pytest.approx(expected, rel=1e-9)
    if len(modalities) == 2:
        # Items that share either cannot be told apart in the text-image term.
        either = [0, 1, 2, 3, 1, 3, 6, 7, 8, 2, 10]
        expected = naive_cross_modal_with_bank(
            encoded["text"],
            encoded["image"],
            either,
            [(i, either[i], v) for i, _, v in memory["text"]],
            [(i, either[i], v) for i, _, v in memory["image"]],
            temperature,
            aside | without_image,
        )
        assert float(terms["loss_t2v"]) == pytest.approx(expected, rel=1e-9)


def test_a_pair_whose_only_negatives_are_remembered_has_a_loss():
    vectors = unit(2, 4, seed=0)
    anchors, positives = torch.tensor([0]), torch.tensor([1])
    nothing, everyone = torch.zeros(1, 2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)
    old = unit(3, 4, seed=1)
    counted = torch.tensor([[True, False, True]])
    loss = pair_contrast(
        vectors, anchors, positives, nothing, everyone, 0.5, Remembered(old, counted)
    )
    terms = [exp_cosine(vectors[0], other, 0.5) for other in (vectors[1], old[0], old[2])]
    assert float(loss) == pytest.approx(-math.log(terms[0] / sum(terms)), rel=1e-9)
    none = Remembered(old, torch.zeros_like(counted))
    assert pair_contrast(vectors, anchors, positives, nothing, everyone, 0.5, none) is None
