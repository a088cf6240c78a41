import numpy as np
import pytest
import torch

from sicsrec.encoders.builder import build_encoder
from sicsrec.encoders.content import open_content
from sicsrec.progress import NoProgress
from sicsrec.training.item_inputs import tabulate_inputs
from tests.unit.stage_one import SMALL_CLIP, bert, make_catalog, save_tiny_bert, write_covers


def set_up(tmp_path, modality, trained, kind):
    catalog = make_catalog()
    write_covers(tmp_path / "covers", catalog)
    config = SMALL_CLIP if kind == "clip" else bert(save_tiny_bert(tmp_path / "bert"))
    encoder = build_encoder(config, modality, seed=0)
    encoder.set_trained(trained)
    return encoder.eval(), open_content(modality, catalog, tmp_path / "covers")


BOUNDS = {"memory": {}, "file": {"max_memory_bytes": 0}, "computed": {"max_file_bytes": 0}}


@pytest.mark.parametrize("where", BOUNDS)
@pytest.mark.parametrize("trained", ["last_block", "full", "none"])
@pytest.mark.parametrize(
    ("modality", "kind"), [("text", "clip"), ("image", "clip"), ("text", "bert")]
)
def test_kept_inputs_give_what_the_encoder_gives(tmp_path, modality, kind, trained, where):
    encoder, content = set_up(tmp_path, modality, trained, kind)
    inputs = tabulate_inputs(
        encoder,
        content,
        batch_size=3,
        work=tmp_path,
        progress=NoProgress(),
        **BOUNDS[where],
    )
    assert inputs.where == where
    assert (tmp_path / f"{modality}_inputs.bin").exists() == (where == "file")
    wanted = content.indices[[4, 0, 2, 0]]
    expected = encoder.encode(encoder.prepare(content.get(wanted)))
    torch.testing.assert_close(inputs.encode(wanted), expected, rtol=1e-4, atol=1e-5)


def test_kept_inputs_follow_the_weights_that_move(tmp_path):
    encoder, content = set_up(tmp_path, "text", "last_block", "bert")
    inputs = tabulate_inputs(encoder, content, batch_size=4, work=tmp_path, progress=NoProgress())
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


def test_many_items_keep_their_order(tmp_path):
    encoder, content = set_up(tmp_path, "text", "last_block", "bert")
    inputs = tabulate_inputs(encoder, content, batch_size=4, work=tmp_path, progress=NoProgress())
    wanted = np.tile(content.indices, 20)
    single = {int(index): inputs.encode(np.array([index])) for index in content.indices}
    expected = torch.cat([single[int(index)] for index in wanted])
    torch.testing.assert_close(inputs.encode(wanted), expected, rtol=1e-4, atol=1e-5)
