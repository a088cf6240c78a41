"""What the objective takes from a batch, and what it keeps of it for later ones."""

import itertools

import numpy as np
import torch

from sicsrec.training.alignment_loop import _seeds
from sicsrec.training.memory_bank import MemoryBank
from sicsrec.training.objective import Objective
from sicsrec.training.pair_batches import Batches, Pairs
from tests.unit.training.test_alignment_quality import WITHOUT_IMAGE, make_towers

N_ITEMS = 8


def make_pairs(*ends: tuple[int, int]) -> Pairs:
    anchors, positives = np.array(ends, dtype=np.int32).T
    return Pairs(anchors, positives, (anchors[:0],) * len(anchors))


def make_objective(max_age: int = 10) -> tuple[Objective, dict[str, MemoryBank]]:
    towers = make_towers(N_ITEMS)
    banks = {
        name: MemoryBank(100, max_age, tower.adapter.outer.out_features, tower.device)
        for name, tower in towers.items()
    }
    return Objective(towers, np.ones(N_ITEMS + 1, dtype=np.bool_), 0.1, banks), banks


def step_on(objective: Objective, pairs: Pairs, step: int) -> dict[str, torch.Tensor]:
    batch = Batches(pairs, np.zeros(0, dtype=np.int32), 8).collate(pairs, pairs.anchors[:0])
    return objective.backward(batch, step, _seeds(1, step))


def test_only_what_an_item_has_is_remembered_of_it():
    objective, banks = make_objective()
    step_on(objective, make_pairs((1, 3), (7, 2)), 0)
    assert sorted(banks["text"].items) == [1, 2, 3, 7]
    assert sorted(banks["image"].items) == [1, 2]
    assert set(WITHOUT_IMAGE) == {3, 7}
    for bank in banks.values():
        torch.testing.assert_close(bank.vectors.norm(dim=1), torch.ones(len(bank.items)))


def test_what_is_too_old_is_forgotten_before_the_next_step():
    objective, banks = make_objective(max_age=2)
    step_on(objective, make_pairs((1, 2), (4, 5)), 0)
    with_old = step_on(objective, make_pairs((6, 8)), 2)
    assert with_old["loss_t2t"] > 0, "a pair alone has no negatives but those remembered"
    objective, banks = make_objective(max_age=2)
    step_on(objective, make_pairs((1, 2), (4, 5)), 0)
    without = step_on(objective, make_pairs((6, 8)), 3)
    assert "loss_t2t" not in without
    assert sorted(banks["text"].items) == [6, 8]


def test_what_a_chunk_draws_follows_seed_step_modality_and_chunk():
    def draw(seed: int, step: int, modality: str, chunk: int) -> float:
        _seeds(seed, step)(modality)(chunk)
        return float(torch.rand(1))

    places = list(itertools.product((1, 2), (0, 5), ("text", "image"), (0, 1)))
    draws = [draw(*place) for place in places]
    assert len(set(draws)) == len(places)
    assert [draw(*place) for place in places] == draws
