import numpy as np
import torch

from sicsrec.training.memory_bank import MemoryBank


def make(size=4, max_age=10):
    return MemoryBank(size, max_age, 2, torch.device("cpu"))


def rows(*values):
    return torch.tensor([[float(value), 0.0] for value in values])


def test_a_newer_vector_takes_the_place_of_an_older_one():
    bank = make()
    bank.add(np.array([3, 5]), rows(30, 50), step=1)
    bank.add(np.array([5, 7]), rows(51, 70), step=2)
    assert bank.items.tolist() == [3, 5, 7]
    assert bank.vectors[:, 0].tolist() == [30, 51, 70]


def test_the_oldest_go_first_when_it_is_full():
    bank = make(size=3)
    bank.add(np.array([1, 2]), rows(1, 2), step=0)
    bank.add(np.array([3, 4]), rows(3, 4), step=1)
    assert bank.items.tolist() == [2, 3, 4]
    bank.add(np.arange(10, 20), rows(*range(10)), step=2)
    assert bank.items.tolist() == [17, 18, 19]


def test_vectors_expire_by_age():
    bank = make(max_age=2)
    bank.add(np.array([1]), rows(1), step=0)
    bank.add(np.array([2]), rows(2), step=1)
    bank.expire(2)
    assert bank.items.tolist() == [1, 2]
    bank.expire(3)
    assert bank.items.tolist() == [2]
    bank.expire(9)
    assert bank.vectors.shape == (0, 2)


def test_no_gradient_flows_into_it():
    bank = make()
    bank.add(np.array([1]), rows(1).requires_grad_(), step=0)
    assert not bank.vectors.requires_grad


def test_without_a_size_it_stays_empty():
    bank = make(size=0)
    bank.add(np.array([1]), rows(1), step=0)
    assert not len(bank.items)


def test_its_state_goes_on_elsewhere():
    bank, other = make(), make()
    bank.add(np.array([1, 2]), rows(1, 2), step=4)
    other.load_state_dict(bank.state_dict())
    for one in (bank, other):
        one.add(np.array([3]), rows(3), step=9)
        one.expire(15)
    assert other.items.tolist() == bank.items.tolist() == [3]
    assert torch.equal(other.vectors, bank.vectors)
