import pytest
import torch

from sicsrec.encoders.precision import computing_in

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)],
)
def test_products_are_of_the_precision_and_weights_stay_whole(precision, expected):
    layer = torch.nn.Linear(4, 4)
    with computing_in(precision, CPU):
        assert layer(torch.ones(2, 4)).dtype == expected
    assert layer.weight.dtype == torch.float32
    assert layer(torch.ones(2, 4)).dtype == torch.float32


def test_attention_is_left_to_others_than_cudnn():
    allowed = torch.backends.cuda.cudnn_sdp_enabled()
    with computing_in("auto", CPU):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.mem_efficient_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled() == allowed
