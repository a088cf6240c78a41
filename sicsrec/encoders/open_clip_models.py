"""Makes and loads whole open_clip models and finds their tokenizers."""

import copy
from typing import Any

import open_clip
from torch import nn

from sicsrec.config.encoders import OpenClipArchitectureConfig, OpenClipEncoderConfig
from sicsrec.errors import EncoderError


def describe_small(
    architecture: OpenClipArchitectureConfig,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return open_clip's description of a small model, and of its preprocessing."""
    width, n_heads = architecture.width, architecture.n_heads
    model_config = {
        "embed_dim": width,
        "vision_cfg": {
            "layers": architecture.n_layers,
            "width": width,
            "head_width": width // n_heads,
            "patch_size": architecture.patch_size,
            "image_size": architecture.image_size,
        },
        "text_cfg": {
            "layers": architecture.n_layers,
            "width": width,
            "heads": n_heads,
            "context_length": architecture.context_length,
        },
    }
    preprocessing = {
        "size": architecture.image_size,
        "mode": "RGB",
        "mean": list(open_clip.OPENAI_DATASET_MEAN),
        "std": list(open_clip.OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        # Covers are seldom square, and what a centre crop would lose is part of the cover.
        "resize_mode": "squash",
        "fill_color": 0,
    }
    return model_config, preprocessing


def instantiate(model_config: dict[str, Any]) -> nn.Module:
    """Make a model with random weights.

    Raises:
        EncoderError: if open_clip cannot make it or it has no plain towers.
    """
    arguments = copy.deepcopy(model_config)
    is_custom = arguments.pop("custom_text", False) or "hf_model_name" in arguments["text_cfg"]
    if "multimodal_cfg" in arguments:
        raise EncoderError("CoCa models have no plain towers; choose a CLIP or SigLIP model")
    arguments["vision_cfg"].pop("timm_model_pretrained", None)
    try:
        model: nn.Module = (open_clip.CustomTextCLIP if is_custom else open_clip.CLIP)(**arguments)
    except (TypeError, ValueError, RuntimeError) as err:
        raise EncoderError(f"open_clip cannot make this architecture: {err}") from err
    return model


def load_pretrained(config: OpenClipEncoderConfig) -> tuple[nn.Module, dict[str, Any]]:
    """Load a model with its weights; return it with open_clip's description of it.

    Raises:
        EncoderError: if it cannot be had or has no plain towers.
    """
    name = str(config.model)
    if ":" not in name and config.pretrained is None:
        raise EncoderError(
            f"open_clip model {name!r} without weights is random; give pretrained (one of "
            f"{open_clip.list_pretrained_tags_by_model(name)}), or architecture for a small model"
        )
    try:
        model_config = open_clip.get_model_config(name)
        if model_config is None:
            raise EncoderError(f"open_clip knows no model {name!r}; open_clip.list_models() does")
        tags = open_clip.list_pretrained_tags_by_model(name)
        if ":" not in name and config.pretrained not in tags:
            # open_clip would take it for a file, of which no key knows.
            raise EncoderError(
                f"open_clip has no weights {config.pretrained!r} of {name!r}, it has {tags}; for "
                "others give local-dir:<folder> as model"
            )
        model = open_clip.create_model(name, pretrained=config.pretrained, require_pretrained=True)
    except (OSError, RuntimeError, ValueError) as err:
        raise EncoderError(
            f"open_clip cannot load {name!r}, pretrained {config.pretrained!r}. Without a network, "
            "download the model elsewhere (open_clip_config.json, open_clip_model.safetensors) and "
            f"give local-dir:<folder> as model. Cause: {err}"
        ) from err
    if "multimodal_cfg" in model_config:
        raise EncoderError(f"{name!r} is a CoCa model; choose a CLIP or SigLIP model")
    return model, copy.deepcopy(model_config)


def find_tokenizer(model_config: dict[str, Any], name: str) -> Any:
    """Return the tokenizer of a model, by its name where it brings its own."""
    if "hf_tokenizer_name" in model_config["text_cfg"] or ":" in name:
        return open_clip.get_tokenizer(name)
    return open_clip.SimpleTokenizer(
        context_length=model_config["text_cfg"].get("context_length", 77),
        **model_config["text_cfg"].get("tokenizer_kwargs", {}),
    )
