"""Every equation of stage 2 against its naive twin."""

import numpy as np
import polars as pl
import pytest
import torch

from sicsrec.data.packing import Windows, pack, training_batches
from sicsrec.data.sequences import Histories
from sicsrec.models import base
from sicsrec.models.base import TokenBatch
from sicsrec.models.content import ContentEmbedding
from sicsrec.models.id_encoder import IdEncoder
from sicsrec.models.layers import norm2
from sicsrec.models.losses import content_contrast, next_item_cross_entropy
from sicsrec.models.sicsrec import SICSRec
from tests.parity import naive_models as naive

N_ITEMS, WIDTH, MAX_LENGTH = 11, 8, 6
TOWER = {
    "n_items": N_ITEMS,
    "width": WIDTH,
    "inner_width": 12,
    "n_layers": 2,
    "n_heads": 2,
    "dropout": 0.5,
    "max_history_length": MAX_LENGTH,
}
# A doubled item, a single item, a history as long as the positions, one longer than them.
SEQUENCES = [[1, 2, 2, 3], [5], [11, 10, 9, 8, 7, 6], [4, 4], [1, 2, 3, 4, 5, 6, 7, 8, 9]]


def histories(sequences) -> Histories:
    lengths = [len(sequence) for sequence in sequences]
    return Histories(
        pl.Series("user_id", [f"u{row}" for row in range(len(sequences))]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.array([item for sequence in sequences for item in sequence], dtype=np.int32),
    )


def randomise(model: torch.nn.Module) -> None:
    """Give every weight a value that matters, biases, norms and zero-started adapters included."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4, generator=generator)


@pytest.fixture
def id_encoder() -> IdEncoder:
    model = IdEncoder(**TOWER)
    randomise(model)
    return model.eval()


@pytest.fixture(params=["raw", "normalised", "id_and_content"])
def sicsrec(request) -> SICSRec:
    scoring = {
        "scoring": "raw" if request.param == "raw" else "normalised",
        "item_scoring": "id_and_content" if request.param == "id_and_content" else "id",
    }
    model = SICSRec(
        **TOWER,
        vector_widths={"text": 6, "image": 5},
        fusion_dropout=0.5,
        adapter_rank=2,
        alpha=0.3,
        temperature=0.1,
        table_penalty=0.02,
        item_dropout=0.5,
        **scoring,
    )
    randomise(model)
    generator = torch.Generator().manual_seed(5)
    text_present = torch.ones(N_ITEMS, dtype=torch.bool)
    image_present = torch.ones(N_ITEMS, dtype=torch.bool)
    image_present[[1, 4]] = False
    text_present[4] = False
    for modality, width, present in (("text", 6, text_present), ("image", 5, image_present)):
        matrix = torch.randn(N_ITEMS, width, generator=generator)
        model.content_embedding.load_vectors(modality, matrix, present)
    return model.eval()


def packed_tokens(sequences, *, with_targets: bool) -> tuple[TokenBatch, list[list[int]]]:
    """Pack whole sequences; with targets the last item of each is a target only."""
    kept = [s[: MAX_LENGTH + with_targets] for s in sequences if len(s) > with_targets]
    flat = histories(kept)
    windows = Windows(flat.offsets[:-1], flat.lengths - int(with_targets))
    batch = pack(flat.items, windows, MAX_LENGTH, with_targets=with_targets)
    return TokenBatch.from_packed(batch, torch.device("cpu")), kept


def by_sequence(batch: TokenBatch, values: torch.Tensor) -> list[torch.Tensor]:
    """Cut a [R, L, D] result back into its sequences, in the order in which they were packed."""
    pieces = []
    for row, segments in enumerate(batch.segments):
        pieces += [values[row][segments == s] for s in range(1, int(segments.max()) + 1)]
    return pieces


@torch.no_grad()
def test_id_encoder_equals_the_naive_one_for_every_token_of_a_packed_batch(id_encoder):
    batch, kept = packed_tokens(SEQUENCES, with_targets=False)
    found = by_sequence(batch, id_encoder.encode(batch))
    assert len(found) == len(kept)
    for states, items in zip(found, kept, strict=True):
        expected = torch.stack(naive.id_states(id_encoder, items))
        torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_sicsrec_equals_the_naive_one_for_every_token_of_a_packed_batch(sicsrec):
    batch, kept = packed_tokens(SEQUENCES, with_targets=False)
    for states, items in zip(by_sequence(batch, sicsrec.encode(batch)), kept, strict=True):
        expected = torch.stack(naive.sicsrec_states(sicsrec, items)["user"])
        torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_positions_may_count_from_the_end_of_each_sequence(id_encoder, sicsrec):
    batch, kept = packed_tokens(SEQUENCES, with_targets=False)
    from_start = id_encoder.encode(batch)
    id_encoder.positions = sicsrec.id_encoder.positions = "from_end"
    found = by_sequence(batch, id_encoder.encode(batch))
    for states, items in zip(found, kept, strict=True):
        expected = torch.stack(naive.id_states(id_encoder, items))
        torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-4)
    for states, items in zip(by_sequence(batch, sicsrec.encode(batch)), kept, strict=True):
        expected = torch.stack(naive.sicsrec_states(sicsrec, items)["user"])
        torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-4)
    assert (id_encoder.encode(batch) - from_start).abs().max() > 0.01
    assert (batch.positions_from_end()[batch.segments == 0] == 0).all()


@torch.no_grad()
def test_scores_equal_the_naive_ones_under_every_rule(sicsrec):
    # An empty history in the middle, and one longer than the positions, cut to its end.
    sequences = [*SEQUENCES[:2], [], *SEQUENCES[2:]]
    scores = sicsrec.score(histories(sequences))
    assert scores.shape == (len(sequences), N_ITEMS)
    for row, items in enumerate(sequences):
        if not items:
            assert (scores[row] == 0).all()
            continue
        user = naive.sicsrec_states(sicsrec, items[-MAX_LENGTH:])["user"][-1]
        for item in range(N_ITEMS):
            vector = naive.item_vector(sicsrec, item + 1)
            assert float(scores[row, item]) == pytest.approx(float(user @ vector), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("rows_at_once", [1, 2])
def test_some_rows_at_a_time_give_the_same_user_vectors(
    rows_at_once, id_encoder, sicsrec, monkeypatch
):
    users = histories([*SEQUENCES, [], [3, 1], *SEQUENCES])
    for model in (id_encoder, sicsrec):
        whole = model.user_vectors(users)
        with monkeypatch.context() as patch:
            patch.setattr(base, "_ROWS_AT_ONCE", rows_at_once)
            torch.testing.assert_close(model.user_vectors(users), whole)


@torch.no_grad()
def test_users_are_read_without_dropout_and_training_goes_on_with_it(id_encoder, sicsrec):
    users = histories(SEQUENCES)
    for model in (id_encoder, sicsrec):
        expected = model.eval().user_vectors(users)
        torch.testing.assert_close(model.train().user_vectors(users), expected)
        assert model.training
        assert not model.eval().training


@torch.no_grad()
def test_all_positions_give_the_loss_of_the_expanded_prefixes(id_encoder, sicsrec):
    """One pass over a sequence gives each target the loss of its own prefix, for all towers."""
    batch, kept = packed_tokens(SEQUENCES, with_targets=True)
    id_user = id_encoder.encode(batch)[batch.targets > 0]
    user = sicsrec.encode(batch)[batch.targets > 0]
    targets = batch.targets[batch.targets > 0].tolist()
    id_table = id_encoder.item_embedding.weight[1:]
    table = torch.stack([naive.item_vector(sicsrec, item) for item in range(1, N_ITEMS + 1)])
    row = 0
    for sequence in kept:
        for n in range(1, len(sequence)):
            prefix, target = sequence[:n], sequence[n]
            assert targets[row] == target
            expected = naive.id_states(id_encoder, prefix)[-1]
            assert naive.cross_entropy(id_user[row], id_table, target) == pytest.approx(
                naive.cross_entropy(expected, id_table, target), rel=1e-4
            )
            expected = naive.sicsrec_states(sicsrec, prefix)["user"][-1]
            assert naive.cross_entropy(user[row] / 0.1, table, target) == pytest.approx(
                naive.cross_entropy(expected / 0.1, table, target), rel=1e-4
            )
            row += 1
    assert row == len(targets)


@torch.no_grad()
def test_every_tower_gives_each_target_the_loss_of_its_own_prefix(id_encoder, sicsrec):
    """ID, content and mix states of one pass are those of each prefix alone, and so its loss."""
    batch, kept = packed_tokens(SEQUENCES, with_targets=True)
    states = {}
    modules = {
        "id": sicsrec.id_encoder.transformer,
        "content": sicsrec.content_encoder,
        "mix": sicsrec.mix_decoder,
    }
    for tower, module in modules.items():
        module.register_forward_hook(
            lambda _, __, output, tower=tower: states.update({tower: output})
        )
    sicsrec.encode(batch)
    table = sicsrec.id_encoder.item_embedding.weight[1:]
    has_target = batch.targets > 0
    row = 0
    for sequence in kept:
        for n in range(1, len(sequence)):
            expected = naive.sicsrec_states(sicsrec, sequence[:n])
            for tower in modules:
                found = states[tower][has_target][row]
                torch.testing.assert_close(found, expected[tower][-1], atol=1e-5, rtol=1e-4)
                assert naive.cross_entropy(found, table, sequence[n]) == pytest.approx(
                    naive.cross_entropy(expected[tower][-1], table, sequence[n]), rel=1e-4
                )
            row += 1
    assert row == int(has_target.sum())


@torch.no_grad()
def test_the_losses_of_both_models_equal_the_naive_sums(id_encoder, sicsrec):
    batch, kept = packed_tokens(SEQUENCES, with_targets=True)
    id_table = id_encoder.item_embedding.weight[1:]
    table = sicsrec.id_encoder.item_embedding.weight[1:]
    vectors = torch.stack([naive.item_vector(sicsrec, item) for item in range(1, N_ITEMS + 1)])
    id_losses, rec, users, contents, targets = [], [], [], [], []
    for sequence in kept:
        states = naive.id_states(id_encoder, sequence[:-1])
        user_vectors = naive.sicsrec_states(sicsrec, sequence[:-1])["user"]
        for t, target in enumerate(sequence[1:]):
            id_losses.append(naive.cross_entropy(states[t], id_table, target))
            rec.append(naive.cross_entropy(user_vectors[t] / 0.1, vectors, target))
            users.append(user_vectors[t])
            contents.append(naive.content_of(sicsrec, target))
            targets.append(target)
    assert len(set(targets)) < len(targets), "the batch must hold the same target twice"
    con = naive.contrast(users, contents, targets, 0.1)
    tables = [table, *(a.table.weight[1:] for a in sicsrec.content_embedding.adapters.values())]
    norms = sum(float((t**2).sum() ** 0.5) for t in tables)
    assert float(id_encoder.loss(batch)["loss"]) == pytest.approx(np.mean(id_losses), rel=1e-4)
    parts = {name: float(value) for name, value in sicsrec.loss(batch).items()}
    assert parts["loss_rec"] == pytest.approx(np.mean(rec), rel=1e-4)
    assert parts["loss_con"] == pytest.approx(con, rel=1e-4)
    assert parts["table_norms"] == pytest.approx(norms, rel=1e-5)
    assert parts["loss"] == pytest.approx(np.mean(rec) + 0.3 * con + 0.02 * norms, rel=1e-4)


@pytest.mark.parametrize("n_padding", [0, 1])
@pytest.mark.parametrize("max_logits", [1, 30, 1 << 26])
def test_cross_entropy_in_blocks_has_the_same_value_and_gradients(max_logits, n_padding):
    torch.manual_seed(0)
    user = torch.randn(13, 4, requires_grad=True)
    table = torch.randn(7 + n_padding, 4, requires_grad=True)
    items = table[n_padding:]
    targets = torch.randint(1, 8, (13,))
    assert len(set(targets.tolist())) < len(targets), "a target must occur twice"
    loss = next_item_cross_entropy(user, table, targets, max_logits, n_padding)
    rows = zip(user.detach(), targets.tolist(), strict=True)
    expected = np.mean([naive.cross_entropy(u, items.detach(), t) for u, t in rows])
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    (3 * loss).backward()
    whole = 3 * torch.nn.functional.cross_entropy(user @ items.T, targets - 1)
    for found, wanted in zip(
        (user.grad, table.grad), torch.autograd.grad(whole, (user, table)), strict=True
    ):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("max_logits", "n_padding"), [(1, 1), (40, 0), (40, 1)])
def test_blocks_of_rows_that_are_dropped_out_and_scaled_have_their_value_and_gradients(
    max_logits, n_padding
):
    """The backward pass has to draw the same masks as the forward pass, block by block."""

    def prepare(rows):
        return torch.nn.functional.normalize(torch.nn.functional.dropout(rows, 0.4), dim=-1)

    torch.manual_seed(0)
    user = torch.randn(13, 4, requires_grad=True)
    table = torch.randn(7 + n_padding, 4, requires_grad=True)
    targets = torch.randint(1, 8, (13,))
    torch.manual_seed(1)
    loss = next_item_cross_entropy(user, table, targets, max_logits, n_padding, prepare)
    drawn_after = torch.rand(1)
    torch.manual_seed(2)
    found = torch.autograd.grad(3 * loss, (user, table))
    of_seed_two = torch.rand(1)
    torch.manual_seed(1)
    size = max(1, max_logits // (13 + 4))
    vectors = torch.cat([prepare(block) for block in table[n_padding:].split(size)])
    assert torch.equal(torch.rand(1), drawn_after)
    whole = torch.nn.functional.cross_entropy(user @ vectors.T, targets - 1)
    torch.testing.assert_close(loss, whole)
    for own, wanted in zip(found, torch.autograd.grad(3 * whole, (user, table)), strict=True):
        torch.testing.assert_close(own, wanted)
    torch.manual_seed(2)
    assert torch.equal(torch.rand(1), of_seed_two), "the backward pass leaves the generator alone"


def test_blocks_do_not_overflow_where_logits_are_large():
    user, table = torch.eye(3) * 1e3, torch.eye(3) * torch.tensor([1e3, -1e3, 1.0])
    loss = next_item_cross_entropy(user, table, torch.tensor([1, 1, 1]), max_logits=3)
    whole = torch.nn.functional.cross_entropy(user @ table.T, torch.tensor([0, 0, 0]))
    torch.testing.assert_close(loss, whole)


def test_contrast_of_a_batch_of_one_item_is_zero_and_small_temperatures_do_not_overflow():
    torch.manual_seed(0)
    user = torch.nn.functional.normalize(torch.randn(5, 4), dim=-1).requires_grad_()
    content = torch.nn.functional.normalize(torch.randn(5, 4), dim=-1)
    assert content_contrast(user, content, torch.full((5,), 3), 0.1).item() == 0.0
    loss = content_contrast(user, content, torch.tensor([1, 2, 1, 4, 5]), 1e-3)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(user.grad).all()


@pytest.mark.parametrize("max_logits", [1, 20, 10_000])
def test_contrast_in_parts_is_the_contrast(max_logits):
    torch.manual_seed(2)
    vectors = [torch.nn.functional.normalize(torch.randn(n, 6), dim=-1) for n in (5, 9)]
    user, content = (of.requires_grad_() for of in vectors)
    targets = torch.tensor([1, 2, 1, 4, 4, 1, 7, 2, 9])
    for first in (0, 4):
        loss = content_contrast(user, content, targets, 0.1, first, max_logits)
        expected = [
            -(user[row] @ content[first + row] / 0.1)
            + torch.stack(
                [
                    user[row] @ content[other] / 0.1
                    for other in range(9)
                    if other == first + row or targets[other] != targets[first + row]
                ]
            ).logsumexp(0)
            for row in range(5)
        ]
        whole = torch.stack(expected).mean()
        torch.testing.assert_close(loss, whole)
        for own, wanted in zip(
            torch.autograd.grad(loss, (user, content)),
            torch.autograd.grad(whole, (user, content)),
            strict=True,
        ):
            torch.testing.assert_close(own, wanted)


def test_same_item_pairs_add_nothing_to_the_contrast():
    """Replacing the content of a doubled target by anything leaves the other rows' loss alone."""
    torch.manual_seed(1)
    user = torch.nn.functional.normalize(torch.randn(2, 4), dim=-1)
    content = torch.nn.functional.normalize(torch.randn(2, 4), dim=-1)
    assert float(content_contrast(user, content, torch.tensor([7, 7]), 0.05)) == 0.0


def test_padding_is_no_class_and_gets_no_gradient(id_encoder, sicsrec):
    rng = np.random.default_rng(0)
    [packed] = training_batches(histories(SEQUENCES), MAX_LENGTH, 1000, rng)
    batch = TokenBatch.from_packed(packed, torch.device("cpu"))
    assert (batch.items == 0).any(), "the batch must hold padding"
    for model in (id_encoder, sicsrec):
        model.zero_grad()
        model.loss(batch)["loss"].backward()
    for table in (id_encoder.item_embedding, sicsrec.id_encoder.item_embedding):
        assert (table.weight.grad[0] == 0).all()
        assert torch.isfinite(table.weight.grad).all()
    for adapter in sicsrec.content_embedding.adapters.values():
        assert (adapter.table.weight.grad[0] == 0).all()
    assert id_encoder.score(histories([[1]])).shape == (1, N_ITEMS)


@torch.no_grad()
def test_without_the_contrastive_task_the_loss_is_the_rest(sicsrec):
    rng = np.random.default_rng(0)
    [packed] = training_batches(histories(SEQUENCES), MAX_LENGTH, 1000, rng)
    batch = TokenBatch.from_packed(packed, torch.device("cpu"))
    whole = sicsrec.loss(batch)
    sicsrec.alpha = 0.0
    parts = sicsrec.loss(batch)
    assert "loss_con" not in parts
    assert float(parts["loss"]) == pytest.approx(
        float(whole["loss"] - 0.3 * whole["loss_con"]), rel=1e-5
    )
    assert float(parts["loss"]) == pytest.approx(
        float(parts["loss_rec"] + 0.02 * parts["table_norms"]), rel=1e-5
    )


def test_blocks_of_items_have_full_precision_under_autocast():
    torch.manual_seed(0)
    user, items = torch.randn(7, 16), torch.randn(40, 16, requires_grad=True)
    targets = torch.arange(1, 8)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = next_item_cross_entropy(user, items, targets, max_logits=70)
        found.append((loss, *torch.autograd.grad(loss, items)))
    assert found[0][0].dtype == found[1][0].dtype == torch.float32
    torch.testing.assert_close(found[1], found[0], rtol=0.0, atol=0.0)


def test_an_item_that_lacks_a_modality_starts_at_what_it_has():
    content = ContentEmbedding(n_items=3, vector_widths={"text": 6, "image": 5}, width=WIDTH)
    for modality, width in (("text", 6), ("image", 5)):
        present = torch.tensor([True, modality == "text", True])
        content.load_vectors(modality, torch.randn(3, width), present)
    text = content.adapters["text"](torch.tensor([2]))
    torch.testing.assert_close(content(torch.tensor([2])), norm2(text))


def test_parts_of_the_score_add_up_to_the_models_own_ranking(sicsrec):
    users = histories(SEQUENCES)
    vectors, parts = sicsrec.user_vectors(users), sicsrec.score_parts()
    weighed = sum(
        weight * vectors @ parts[name][0].T / parts[name][1]
        for name, weight in sicsrec.own_weights().items()
    )
    factor = 1.0 if sicsrec.scoring == "raw" else sicsrec.temperature
    torch.testing.assert_close(weighed * factor, sicsrec.score(users))
