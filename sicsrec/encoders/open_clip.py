"""Either tower of an open_clip model: pretrained, from a local folder, or made on the spot.

Only the tower that is used is kept and saved. The saved folder has open_clip's own
``open_clip_config.json``, in which the other tower is cut down to the smallest possible.
"""

import contextlib
import copy
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from jaxtyping import Float
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sicsrec.config import OpenClipArchitectureConfig, OpenClipEncoderConfig
from sicsrec.encoders.base import EncoderInputs, ItemEncoder, TrainedParts, run_until
from sicsrec.errors import EncoderError

logger = logging.getLogger(__name__)

_WEIGHTS_FILE = "tower.safetensors"
_CONFIG_FILE = "open_clip_config.json"
_SMALLEST_VISION = {"layers": 1, "width": 8, "head_width": 8, "patch_size": 8, "image_size": 8}
_SMALLEST_TEXT = {"layers": 1, "width": 8, "heads": 1, "vocab_size": 8, "context_length": 4}


class OpenClipEncoder(ItemEncoder):
    """What both towers have in common.

    Args:
        clip: the whole model; the other tower is dropped.
        model_config: open_clip's description of the architecture.
        preprocessing: open_clip's description of the image preprocessing.
        origin: where the model came from: model, pretrained, or that it was made on the spot.
    """

    def __init__(
        self,
        clip: nn.Module,
        model_config: dict[str, Any],
        preprocessing: dict[str, Any],
        origin: dict[str, Any],
    ) -> None:
        super().__init__()
        self.tower = self._keep_tower(clip)
        self.model_config = model_config
        self.preprocessing = preprocessing
        self.origin = origin
        self.name = str(origin["model"])
        self._splits = False

    @staticmethod
    def _keep_tower(clip: nn.Module) -> nn.Module:
        raise NotImplementedError

    @staticmethod
    def _without_other_tower(model_config: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def _whole(self, inputs: EncoderInputs) -> Tensor:
        raise NotImplementedError

    def _finish(self, states: EncoderInputs) -> Tensor:
        raise NotImplementedError

    def _state_lengths(self, inputs: EncoderInputs, hidden: Tensor) -> Tensor:
        raise NotImplementedError

    @classmethod
    def build(cls, config: OpenClipEncoderConfig, seed: int) -> "OpenClipEncoder":
        """Load a pretrained model, or make a small one with random weights.

        Raises:
            EncoderError: if the model or its weights cannot be had.
        """
        if config.architecture is not None:
            model_config, preprocessing = _describe_small(config.architecture)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                clip = _instantiate(model_config)
            origin = {"model": "small open_clip", "pretrained": None, "seed": seed}
            return cls(clip, model_config, preprocessing, origin)
        clip, model_config = _load_pretrained(config)
        origin = {"model": config.model, "pretrained": config.pretrained, "seed": None}
        return cls(clip, model_config, open_clip.get_model_preprocess_cfg(clip), origin)

    # ------------------------------------------------------------------ forward

    def trunk(self, inputs: EncoderInputs) -> EncoderInputs:
        """See :meth:`ItemEncoder.trunk`."""
        if not self._splits:
            return inputs
        hidden = run_until(self._blocks()[-1], lambda: self._whole(inputs))
        lengths = self._state_lengths(inputs, hidden)
        return EncoderInputs(hidden[:, : int(lengths.max())], lengths)

    def head(self, states: EncoderInputs) -> Float[Tensor, "batch width"]:
        """See :meth:`ItemEncoder.head`."""
        return self._finish(states) if self._splits else self._whole(states)

    def _blocks(self) -> nn.ModuleList:
        with contextlib.suppress(AttributeError):
            blocks = self.tower.transformer.resblocks  # type: ignore[union-attr]
            if isinstance(blocks, nn.ModuleList):
                return blocks
        raise EncoderError(
            f"encoder {self.name}: the {self.modality} tower is no plain Transformer; set "
            "align_encoders.trained to full or none"
        )

    def _probe(self, inputs: EncoderInputs) -> None:
        """Find the width, and whether trunk and head together give what the whole tower gives."""
        self.eval()
        with torch.no_grad():
            whole = self._whole(inputs)
            self.dim = whole.shape[1]
            self._splits = True
            halves: Tensor | None = None
            with contextlib.suppress(
                AttributeError, TypeError, ValueError, RuntimeError, IndexError, EncoderError
            ):
                halves = self.encode(inputs)
        self._splits = (
            halves is not None
            and halves.shape == whole.shape
            and torch.allclose(halves, whole, rtol=1e-4, atol=1e-5)
        )
        if not self._splits:
            logger.info("encoder %s: no split below its last block is known", self.name)

    # ------------------------------------------------------------------ folder

    def describe(self) -> dict[str, Any]:
        """See :meth:`ItemEncoder.describe`."""
        return {
            "library": "open_clip",
            **self.origin,
            "revision": self.origin["pretrained"],
            "pooling": "tower",
            "preprocessing": self.preprocessing,
        }

    def save(self, folder: Path) -> None:
        """See :meth:`ItemEncoder.save`."""
        content = {
            "model_cfg": self._without_other_tower(self.model_config),
            "preprocess_cfg": self.preprocessing,
        }
        text = json.dumps(content, indent=2, sort_keys=True)
        (folder / _CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
        weights = {name: value.contiguous() for name, value in self.tower.state_dict().items()}
        save_file(weights, folder / _WEIGHTS_FILE)

    @classmethod
    def load(cls, folder: Path, description: dict[str, Any]) -> "OpenClipEncoder":
        """See :meth:`ItemEncoder.load`."""
        try:
            content = json.loads((folder / _CONFIG_FILE).read_text(encoding="utf-8"))
            weights = load_file(folder / _WEIGHTS_FILE)
        except (OSError, ValueError) as err:
            raise EncoderError(f"cannot read the encoder in {folder}: {err}") from err
        clip = _instantiate(content["model_cfg"])
        origin = {key: description[key] for key in ("model", "pretrained", "seed")}
        cls_tower = cls._keep_tower(clip)
        try:
            cls_tower.load_state_dict(weights, strict=True)
        except RuntimeError as err:
            raise EncoderError(f"the weights in {folder} do not fit the tower: {err}") from err
        return cls._from_folder(folder, clip, content, origin)

    @classmethod
    def _from_folder(
        cls, folder: Path, clip: nn.Module, content: dict[str, Any], origin: dict[str, Any]
    ) -> "OpenClipEncoder":
        del folder
        return cls(clip, content["model_cfg"], content["preprocess_cfg"], origin)


class OpenClipImageEncoder(OpenClipEncoder):
    """The image tower of an open_clip model."""

    kind = "open_clip_image"
    modality = "image"

    def __init__(
        self,
        clip: nn.Module,
        model_config: dict[str, Any],
        preprocessing: dict[str, Any],
        origin: dict[str, Any],
    ) -> None:
        super().__init__(clip, model_config, preprocessing, origin)
        self._transform = image_transform_v2(PreprocessCfg(**preprocessing), is_train=False)
        # Not plain colours: on a constant image a wrong split could look right.
        gradients = (Image.radial_gradient("L"), Image.linear_gradient("L"))
        self._probe(self.prepare([gradient.convert("RGB") for gradient in gradients]))

    @staticmethod
    def _keep_tower(clip: nn.Module) -> nn.Module:
        tower: nn.Module = clip.visual  # type: ignore[assignment]
        return tower

    @staticmethod
    def _without_other_tower(model_config: dict[str, Any]) -> dict[str, Any]:
        return {**model_config, "text_cfg": _SMALLEST_TEXT}

    def prepare(self, items: Sequence[str] | Sequence[Image.Image]) -> EncoderInputs:
        """Preprocess RGB images; ``values`` are pixels [batch, 3, height, width]."""
        pixels = torch.stack([self._transform(image) for image in items])
        return EncoderInputs(pixels, torch.full((len(pixels),), pixels.shape[1]))

    def _whole(self, inputs: EncoderInputs) -> Tensor:
        vectors: Tensor = self.tower(inputs.values)
        return vectors

    def _state_lengths(self, inputs: EncoderInputs, hidden: Tensor) -> Tensor:
        return torch.full_like(inputs.lengths, hidden.shape[1])

    def _finish(self, states: EncoderInputs) -> Tensor:
        tower: Any = self.tower
        hidden = self._blocks()[-1](states.values)
        return tower.ln_post(hidden)[:, 0] @ tower.proj

    def last_block(self) -> TrainedParts:
        """See :meth:`ItemEncoder.last_block`."""
        tower: Any = self.tower
        modules = [self._blocks()[-1], tower.ln_post, getattr(tower, "attn_pool", None)]
        projection = () if tower.proj is None else (tower.proj,)
        return TrainedParts(tuple(part for part in modules if part is not None), projection)


class OpenClipTextEncoder(OpenClipEncoder):
    """The text tower of an open_clip model with its tokenizer."""

    kind = "open_clip_text"
    modality = "text"

    def __init__(
        self,
        clip: nn.Module,
        model_config: dict[str, Any],
        preprocessing: dict[str, Any],
        origin: dict[str, Any],
        tokenizer: Any = None,
    ) -> None:
        if "hf_model_name" in model_config["text_cfg"]:
            raise EncoderError(
                f"the text tower of {origin['model']} is a transformers model; use it with "
                f"library: transformers, model: {model_config['text_cfg']['hf_model_name']}"
            )
        super().__init__(clip, model_config, preprocessing, origin)
        self.tokenizer = tokenizer or _tokenizer_of(model_config, origin["model"])
        self._probe(self.prepare(["a", "a longer text of several words"]))

    @staticmethod
    def _keep_tower(clip: nn.Module) -> nn.Module:
        if hasattr(clip, "text"):
            tower: nn.Module = clip.text  # type: ignore[assignment]
            return tower
        # The plain CLIP class keeps its text tower spread over the model itself.
        clip.visual = nn.Identity()
        return clip

    @staticmethod
    def _without_other_tower(model_config: dict[str, Any]) -> dict[str, Any]:
        return {**model_config, "vision_cfg": _SMALLEST_VISION}

    def prepare(self, items: Sequence[str] | Sequence[Image.Image]) -> EncoderInputs:
        """Tokenise texts; ``values`` are token ids [batch, context length]."""
        ids = self.tokenizer(list(items))
        return EncoderInputs(ids, torch.full((len(ids),), ids.shape[1]))

    def _whole(self, inputs: EncoderInputs) -> Tensor:
        encode = getattr(self.tower, "encode_text", self.tower)
        vectors: Tensor = encode(inputs.values)
        return vectors

    def _state_lengths(self, inputs: EncoderInputs, hidden: Tensor) -> Tensor:
        """Return where the end token stands: under a causal mask nothing after it counts."""
        del hidden
        return inputs.values.argmax(dim=1) + 1

    def _finish(self, states: EncoderInputs) -> Tensor:
        tower: Any = self.tower
        length = states.values.shape[1]
        mask = tower.attn_mask[:length, :length]
        hidden = tower.ln_final(self._blocks()[-1](states.values, attn_mask=mask))
        rows = torch.arange(len(hidden), device=hidden.device)
        return hidden[rows, states.lengths - 1] @ tower.text_projection

    def last_block(self) -> TrainedParts:
        """See :meth:`ItemEncoder.last_block`."""
        tower: Any = self.tower
        projection = tower.text_projection
        modules = [self._blocks()[-1], tower.ln_final]
        if isinstance(projection, nn.Module):
            return TrainedParts((*modules, projection))
        return TrainedParts(tuple(modules), () if projection is None else (projection,))

    def save(self, folder: Path) -> None:
        """See :meth:`ItemEncoder.save`."""
        super().save(folder)
        inner = getattr(self.tokenizer, "tokenizer", None)
        if inner is not None:
            inner.save_pretrained(folder)

    @classmethod
    def _from_folder(
        cls, folder: Path, clip: nn.Module, content: dict[str, Any], origin: dict[str, Any]
    ) -> "OpenClipTextEncoder":
        tokenizer = _tokenizer_of(content["model_cfg"], f"local-dir:{folder}")
        return cls(clip, content["model_cfg"], content["preprocess_cfg"], origin, tokenizer)


def _describe_small(
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


def _instantiate(model_config: dict[str, Any]) -> nn.Module:
    """Make a model with random weights."""
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


def _load_pretrained(config: OpenClipEncoderConfig) -> tuple[nn.Module, dict[str, Any]]:
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


def _tokenizer_of(model_config: dict[str, Any], name: str) -> Any:
    if "hf_tokenizer_name" in model_config["text_cfg"] or ":" in name:
        return open_clip.get_tokenizer(name)
    return open_clip.SimpleTokenizer(
        context_length=model_config["text_cfg"].get("context_length", 77),
        **model_config["text_cfg"].get("tokenizer_kwargs", {}),
    )
