"""Low-rank weights beside the linear layers of an encoder: put in, trained, merged.

``W x + (alpha / r) B A x`` with A [r, in] random and B [out, r] zero, so an encoder starts as it
was (arXiv 2106.09685). They are merged into W before the encoder is saved, so a saved encoder
knows nothing of them and is loaded and used like any other.
"""

from typing import Any

from torch import nn

from sicsrec.config.encoders import LoraConfig
from sicsrec.encoders.base import ItemEncoder
from sicsrec.errors import EncoderError


def add_lora(encoder: ItemEncoder, config: LoraConfig) -> None:
    """Put low-rank weights beside every linear layer; A is drawn from torch's generator.

    Raises:
        EncoderError: if the encoder has no linear layer that they fit, or peft is not installed.
    """
    names = _linear_layers(encoder)
    try:
        import peft
    except ImportError as err:
        raise EncoderError(
            "align_encoders.trained is 'lora', which needs the extra lora: "
            "pip install 'sicsrec[lora]'"
        ) from err
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=names,
    )
    peft.inject_adapter_in_model(settings, encoder)


def merge_lora(encoder: ItemEncoder) -> None:
    """Add the low-rank products to the weights beside them and take the low-rank weights out."""
    layers = [name for name, module in encoder.named_modules() if hasattr(module, "lora_A")]
    for name in layers:
        parent_name, _, own_name = name.rpartition(".")
        layer: Any = encoder.get_submodule(name)
        layer.merge()
        setattr(encoder.get_submodule(parent_name), own_name, layer.get_base_layer())
    # peft leaves its settings on the module it was given.
    if hasattr(encoder, "peft_config"):
        del encoder.peft_config
    encoder.set_trained("none")


def _linear_layers(encoder: ItemEncoder) -> list[str]:
    fused = [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.MultiheadAttention)
    ]
    if fused:
        raise EncoderError(
            f"encoder {encoder.name}: its attention keeps query, key and value in one fused "
            f"in_proj_weight (torch.nn.MultiheadAttention, e.g. {fused[0]}), which takes no "
            "low-rank weights. Set align_encoders.trained (image_trained for the image encoder "
            "alone) to last_block or full, or use the same model with library: transformers, whose "
            "attention has a linear layer for each"
        )
    # A pooler that pooling does not use would get weights that no gradient reaches.
    is_pooled = getattr(encoder, "pooling", "pooler") in ("pooler", "model")
    used = {id(inner) for part in encoder.whole().modules for inner in part.modules()}
    names = [
        name
        for name, module in encoder.named_modules()
        if type(module) is nn.Linear and id(module) in used and (is_pooled or "pooler" not in name)
    ]
    if not names:
        raise EncoderError(
            f"encoder {encoder.name} has no linear layer for low-rank weights; set "
            "align_encoders.trained to last_block or full"
        )
    return names
