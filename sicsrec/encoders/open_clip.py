"""Either tower of an open_clip model: pretrained, from a local folder, or made on the spot.

Only the tower that is used is kept and saved. The saved folder has open_clip's own
``open_clip_config.json``, in which the other tower is cut down to the smallest possible.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from jaxtyping import Bool, Float, Int
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sicsrec.config.encoders import OpenClipEncoderConfig
from sicsrec.encoders.base import EncoderInputs, ItemEncoder, Prepare, TrainedParts, run_until
from sicsrec.encoders.identity import digest_weights
from sicsrec.encoders.location import portable_name
from sicsrec.encoders.open_clip_models import (
    describe_small,
    find_tokenizer,
    instantiate,
    load_pretrained,
)
from sicsrec.errors import EncoderError

logger = logging.getLogger(__name__)

_ORIGIN = ("model", "pretrained", "seed", "source_digest")
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
        self._head: Callable[[EncoderInputs], Tensor] = self._whole

    @staticmethod
    def _keep_tower(clip: nn.Module) -> nn.Module:
        raise NotImplementedError

    @staticmethod
    def _without_other_tower(model_config: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def _whole(self, inputs: EncoderInputs) -> Tensor:
        raise NotImplementedError

    def _finish(self, states: EncoderInputs) -> Tensor:
        """Run the last block and all after it."""
        raise NotImplementedError

    def _finish_pooled(self, states: EncoderInputs) -> Tensor:
        """Do the same, computing the last block at the one position that the vector is read from.

        The other positions of its output go nowhere: only their keys and values count.
        """
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
            model_config, preprocessing = describe_small(config.architecture)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                clip = instantiate(model_config)
            origin = {
                "model": "small open_clip",
                "pretrained": None,
                "seed": seed,
                "source_digest": digest_weights(clip),
            }
            return cls(clip, model_config, preprocessing, origin)
        clip, model_config = load_pretrained(config)
        origin = {
            "model": portable_name(str(config.model)),
            "pretrained": config.pretrained,
            "seed": None,
            "source_digest": digest_weights(clip),
        }
        preprocessing = open_clip.get_model_preprocess_cfg(clip)
        return cls._with_source(clip, model_config, preprocessing, origin, str(config.model))

    @classmethod
    def _with_source(
        cls,
        clip: nn.Module,
        model_config: dict[str, Any],
        preprocessing: dict[str, Any],
        origin: dict[str, Any],
        source: str,
    ) -> "OpenClipEncoder":
        """Make the encoder of a model that has the name ``source`` for open_clip."""
        del source
        return cls(clip, model_config, preprocessing, origin)

    # ------------------------------------------------------------------ forward

    def trunk(self, inputs: EncoderInputs) -> EncoderInputs:
        """See :meth:`ItemEncoder.trunk`."""
        if self._head == self._whole:
            return inputs
        hidden = run_until(self._blocks()[-1], lambda: self._whole(inputs))
        lengths = self._state_lengths(inputs, hidden)
        return EncoderInputs(hidden[:, : int(lengths.max())], lengths)

    def head(self, states: EncoderInputs) -> Float[Tensor, "batch width"]:
        """See :meth:`ItemEncoder.head`."""
        return self._head(states)

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
        """Find the width, and the cheapest head that gives what the whole tower gives."""
        self.eval()
        with torch.no_grad():
            whole = self._whole(inputs)
            self.dim = whole.shape[1]
            for head in (self._finish_pooled, self._finish):
                self._head = head
                halves: Tensor | None = None
                with contextlib.suppress(
                    AttributeError, TypeError, ValueError, RuntimeError, IndexError, EncoderError
                ):
                    halves = self.encode(inputs)
                if (
                    halves is not None
                    and halves.shape == whole.shape
                    and torch.allclose(halves, whole, rtol=1e-4, atol=1e-5)
                ):
                    return
        self._head = self._whole
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
        clip = instantiate(content["model_cfg"])
        origin = {key: description[key] for key in _ORIGIN}
        cls_tower = cls._keep_tower(clip)
        try:
            cls_tower.load_state_dict(weights, strict=True)
        except RuntimeError as err:
            raise EncoderError(f"the weights in {folder} do not fit the tower: {err}") from err
        model_config, preprocessing = content["model_cfg"], content["preprocess_cfg"]
        return cls._with_source(clip, model_config, preprocessing, origin, f"local-dir:{folder}")


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

    def preparer(self) -> Prepare:
        """See :meth:`ItemEncoder.preparer`; ``values`` are pixels [batch, 3, height, width]."""
        return partial(_prepare_images, self._transform)

    def _whole(self, inputs: EncoderInputs) -> Tensor:
        vectors: Tensor = self.tower(inputs.values)
        return vectors

    def _state_lengths(self, inputs: EncoderInputs, hidden: Tensor) -> Tensor:
        return torch.full_like(inputs.lengths, hidden.shape[1])

    def _finish(self, states: EncoderInputs) -> Tensor:
        tower: Any = self.tower
        hidden = self._blocks()[-1](states.values)
        return tower.ln_post(hidden)[:, 0] @ tower.proj

    def _finish_pooled(self, states: EncoderInputs) -> Tensor:
        tower: Any = self.tower
        first = torch.zeros_like(states.lengths)
        pooled = _run_at(self._blocks()[-1], states.values, first, None)
        return tower.ln_post(pooled) @ tower.proj

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
        self.tokenizer = tokenizer or find_tokenizer(model_config, "")
        self._probe(self.prepare(["a", "a longer text of several words"]))

    @classmethod
    def _with_source(
        cls,
        clip: nn.Module,
        model_config: dict[str, Any],
        preprocessing: dict[str, Any],
        origin: dict[str, Any],
        source: str,
    ) -> "OpenClipEncoder":
        tokenizer = find_tokenizer(model_config, source)
        return cls(clip, model_config, preprocessing, origin, tokenizer)

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

    def preparer(self) -> Prepare:
        """See :meth:`ItemEncoder.preparer`; ``values`` are token ids [batch, context length]."""
        return partial(_prepare_texts, self.tokenizer)

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

    def _finish_pooled(self, states: EncoderInputs) -> Tensor:
        tower: Any = self.tower
        # Of what precedes the end token nothing is hidden from it by a causal mask.
        pooled = _run_at(self._blocks()[-1], states.values, states.lengths - 1, ~states.mask)
        return tower.ln_final(pooled) @ tower.text_projection

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


def _run_at(
    block: Any,
    hidden: Float[Tensor, "batch length width"],
    positions: Int[Tensor, " batch"],
    is_padding: Bool[Tensor, "batch length"] | None,
) -> Float[Tensor, "batch width"]:
    """Return the output of a residual attention block at one position of each row."""
    normed = block.ln_1(hidden)
    rows = torch.arange(len(hidden), device=hidden.device)
    query = normed[rows, positions][:, None]
    attended = block.attn(query, normed, normed, key_padding_mask=is_padding, need_weights=False)
    output = hidden[rows, positions] + block.ls_1(attended[0][:, 0])
    return output + block.ls_2(block.mlp(block.ln_2(output)))


def _prepare_images(
    transform: Callable[[Image.Image], Tensor], items: Sequence[Image.Image]
) -> EncoderInputs:
    pixels = torch.stack([transform(image) for image in items])
    return EncoderInputs(pixels, torch.full((len(pixels),), pixels.shape[1]))


def _prepare_texts(tokenizer: Any, items: Sequence[str]) -> EncoderInputs:
    ids = tokenizer(list(items))
    return EncoderInputs(ids, torch.full((len(ids),), ids.shape[1]))
