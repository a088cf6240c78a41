"""One gradient of a large table against those that autograd makes and adds up."""

from functools import partial

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sicsrec.models import base, tables
from sicsrec.models import sicsrec as sicsrec_module
from sicsrec.models.base import SequenceModel
from sicsrec.models.candidates import CandidateSampler
from sicsrec.models.losses import next_item_cross_entropy
from sicsrec.models.tables import ItemTable, one_gradient
from tests.parity.test_stage_two import (
    N_ITEMS,
    SEQUENCES,
    id_encoder,  # noqa: F401 - a fixture
    packed_tokens,
    sicsrec,  # noqa: F401 - a fixture
)


@pytest.fixture
def large(monkeypatch):
    """Return how to let tables above so many items count as large, and blocks have few logits."""

    def make(above: int = 0, max_logits: int = 1):
        monkeypatch.setattr(tables, "LARGE_TABLE", above)
        in_blocks = partial(next_item_cross_entropy, max_logits=max_logits)
        for module in (base, sicsrec_module):
            monkeypatch.setattr(module, "next_item_cross_entropy", in_blocks)

    return make


def gradients(model: SequenceModel) -> dict[str, torch.Tensor]:
    batch, _ = packed_tokens(SEQUENCES, with_targets=True)
    model.zero_grad()
    torch.manual_seed(0)
    (2 * model.loss(batch)["loss"]).backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("n_sampled", [None, 3])
def test_gradients_of_the_id_encoder_are_those_of_autograd(n_sampled, large, id_encoder):  # noqa: F811
    check_gradients(id_encoder, n_sampled, large)


@pytest.mark.parametrize("n_sampled", [None, 3])
def test_gradients_of_sicsrec_are_those_of_autograd(n_sampled, large, sicsrec):  # noqa: F811
    check_gradients(sicsrec, n_sampled, large)


def check_gradients(model, n_sampled, large):
    if n_sampled:
        model.candidates = CandidateSampler(n_sampled, torch.arange(N_ITEMS))
    expected = gradients(model)
    large()
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert not found[name].is_sparse
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)
    # Masks are drawn by blocks then, so with dropout they are others; the same seed, the same bits.
    model.train()
    first, second = gradients(model), gradients(model)
    assert all(torch.equal(first[name], second[name]) for name in first)


class BigTensors(TorchDispatchMode):
    """Counts the tensors of at least so many bytes that are alive at once, views not counted."""

    def __init__(self, n_bytes: int) -> None:
        super().__init__()
        self.n_bytes = n_bytes
        self.seen: dict[int, StorageWeakRef] = {}
        self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, result)):
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                storage = tensor.untyped_storage()
                if storage.nbytes() >= self.n_bytes:
                    self.seen[storage._cdata] = StorageWeakRef(storage)
        self.seen = {key: ref for key, ref in self.seen.items() if not ref.expired()}
        self.most = max(self.most, len(self.seen))
        return result


@pytest.mark.parametrize("n_sampled", [None, 3])
def test_there_is_one_large_gradient_in_step_one(n_sampled, large, id_encoder):  # noqa: F811
    check_big_tensors(id_encoder, n_sampled, large, 1)


@pytest.mark.parametrize("n_sampled", [None, 3])
def test_there_is_one_large_gradient_per_table_in_step_two(n_sampled, large, sicsrec):  # noqa: F811
    if sicsrec.item_scoring.name != "id" and n_sampled is None:
        pytest.skip("content-aware scoring holds the content of all items")
    check_big_tensors(sicsrec, n_sampled, large, 3)


def check_big_tensors(model, n_sampled, large, n_tables):
    """Count what is as large as the narrowest table: the tables and their gradients alone."""
    n_items = 5_000
    model = type(model)(**model.settings() | {"n_items": n_items}).train()
    if n_sampled:
        model.candidates = CandidateSampler(n_sampled, torch.arange(n_items))
    batch, _ = packed_tokens(SEQUENCES, with_targets=True)
    found = []
    for above in (0, n_items):
        large(above=above, max_logits=1_000)
        model.zero_grad()
        with BigTensors(n_items * 5 * 4) as big:
            model.loss(batch)["loss"].backward()
        found.append(big.most)
    assert found[0] == 2 * n_tables
    assert found[1] > 2 * n_tables, "autograd alone holds more, or nothing here would be needed"


def test_a_table_of_zeros_has_a_norm_without_a_gradient(large):
    large()
    table = ItemTable(3, 2)
    torch.nn.init.zeros_(table.weight)
    with one_gradient([table]):
        table.norm().backward()
    assert torch.equal(table.weight.grad, torch.zeros(4, 2))
