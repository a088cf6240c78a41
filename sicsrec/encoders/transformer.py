"""What text and vision models of the transformers library have in common: loading, split, pooling.

Models are loaded from safetensors only, never with remote code, and from what lies on this machine
before the hub is asked.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import logging as transformers_logging

from sicsrec import model_files
from sicsrec.config.encoders import TransformersEncoderConfig
from sicsrec.encoders.base import EncoderInputs, ItemEncoder, TrainedParts, run_until
from sicsrec.encoders.first_position import run_first
from sicsrec.encoders.identity import digest_weights
from sicsrec.encoders.location import portable_name
from sicsrec.encoders.passing_over import Substitute, learn_substitutes, passing_over
from sicsrec.errors import EncoderError

logger = logging.getLogger(__name__)

# The library never writes to a terminal, and loading a model would draw a bar there.
transformers_logging.disable_progress_bar()

Pooling = Literal["cls", "mean", "pooler", "model"]
Loaded = TypeVar("Loaded")

ORIGIN = ("model", "revision", "source_digest")
"""What a description says of where a model came from."""

_BLOCK_LISTS = (
    "encoder.layer",
    "encoder.layers",
    "encoder.stages",
    "layers",
    "layer",
    "blocks",
    "transformer.layer",  # DistilBERT
    "model.layer",  # DINOv3
    "h",  # GPT-2 and its kin
)
"""Where models keep their blocks, relative to the model."""
_NESTED_LISTS = ("blocks", "layers")
"""Where the stages of hierarchical models (Swin, ConvNeXt) keep theirs."""
_FINAL_NORMS = (
    "layernorm",
    "norm",
    "final_layer_norm",
    "post_layernorm",
    "layer_norm",
    "final_norm",  # ModernBERT
    "ln_f",  # GPT-2 and its kin
)
"""Norms that follow the last block."""
_POOLERS = ("pooler", "head")
_PROJECTIONS = {"text": ("text_projection",), "image": ("visual_projection", "vision_projection")}
"""Where models with two towers keep what maps to the shared space."""

_MISFITS = (
    *(AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
    EncoderError,
)
"""What is raised where a model is not built as a split takes it to be."""
_MOST_DIFFERENCE = 1e-3
"""Between two vectors of one item, as a share of its largest number: far above rounding."""


class TransformerEncoder(ItemEncoder):
    """A model of the transformers library with a pooling rule.

    Args:
        model: the model without task heads.
        pooling: ``cls``: first vector; ``mean``: mean of all vectors that are not padding;
            ``pooler``: the model's own pooler; ``model``: the projected features of a model with a
            text and an image tower, else its pooler.
        origin: where the model came from: model, revision, digest of its weights.

    Raises:
        EncoderError: if the model has no such pooling.
    """

    def __init__(self, model: nn.Module, pooling: Pooling, origin: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.origin = origin
        self.name = str(origin["model"])
        self.dim = 0
        self.has_two_towers = hasattr(model.config, "vision_config")
        self._head: Callable[[EncoderInputs], Tensor] = self._whole
        self._substitutes: list[Substitute] = []
        self._example: EncoderInputs
        """One item, as prepared; stand-in inputs are made after it."""

    # ------------------------------------------------------------------ forward

    def trunk(self, inputs: EncoderInputs) -> EncoderInputs:
        """See :meth:`ItemEncoder.trunk`."""
        if self._head == self._whole:
            return inputs
        hidden = run_until(self._last_layer(), lambda: self._run(inputs))
        # Text keeps its lengths; a vision model's patches are never padding.
        if self.modality == "text":
            return EncoderInputs(hidden, inputs.lengths)
        return EncoderInputs(hidden, torch.full_like(inputs.lengths, hidden.shape[1]))

    def head(self, states: EncoderInputs) -> Float[Tensor, "batch width"]:
        """See :meth:`ItemEncoder.head`."""
        return self._head(states)

    def _run(self, inputs: EncoderInputs) -> Any:
        """Call the model on prepared inputs and return its output object."""
        raise NotImplementedError

    def _whole(self, inputs: EncoderInputs) -> Tensor:
        output = self._run(inputs)
        if isinstance(output, Tensor):
            return output
        if self.pooling in ("pooler", "model"):
            return self._flat(output.pooler_output)
        return self._pool(output.last_hidden_state, inputs)

    def _finish(self, states: EncoderInputs) -> Tensor:
        """Run the last block and all after it."""
        if self.has_two_towers:
            raise EncoderError(f"encoder {self.name}: how its towers end is not known")
        mask = create_bidirectional_mask(
            config=self.model.config,
            inputs_embeds=states.values,
            attention_mask=states.mask if self.modality == "text" else None,
        )
        block = self._last_layer()
        # By its name: the second argument of some blocks is another one, and a mask of two texts
        # passes for the pair of tensors that Gemma's positions are.
        hidden = (
            block(states.values, None)
            if mask is None
            else block(states.values, attention_mask=mask)
        )
        return self._after_block(hidden[0] if isinstance(hidden, tuple) else hidden, states)

    def _finish_pooled(self, states: EncoderInputs) -> Tensor:
        """Do the same, computing the last block at the one position that is read."""
        if self.has_two_towers or self.pooling == "mean":
            raise EncoderError(f"encoder {self.name} reads all positions")
        mask = states.mask if self.modality == "text" else None
        return self._after_block(run_first(self._last_layer(), states.values, mask), states)

    def _pass_over(self, states: EncoderInputs) -> Tensor:
        """Run the model itself on stand-in inputs, its blocks below the last one passed over."""
        *below, last = self._blocks()
        with passing_over(below, self._substitutes, last, states.values):
            return self._whole(self._stand_in(states))

    def _stand_in(self, states: EncoderInputs) -> EncoderInputs:
        """Return inputs of the form that those of ``states`` had."""
        raise NotImplementedError

    def _after_block(self, hidden: Tensor, states: EncoderInputs) -> Tensor:
        norm = self._final_norm()
        hidden = hidden if norm is None else norm(hidden)
        if self.pooling in ("pooler", "model"):
            return self._flat(self.model.pooler(hidden))  # type: ignore[operator]
        return self._pool(hidden, states)

    def _pool(self, hidden: Tensor, inputs: EncoderInputs) -> Tensor:
        if hidden.ndim == 4:  # convolutional: [batch, channels, height, width]
            hidden = hidden.flatten(2).transpose(1, 2)
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.modality == "image":
            return hidden.mean(dim=1)
        return _masked_mean(hidden, inputs.mask)

    @staticmethod
    def _flat(pooled: Tensor) -> Tensor:
        return pooled.flatten(1)

    # ------------------------------------------------------------------ structure

    def _blocks(self) -> list[nn.Module]:
        """Return blocks, of hierarchical models stages and the last one's blocks, as they run."""
        found = _list_in(self._tower(), _BLOCK_LISTS)
        if not found:
            raise EncoderError(
                f"encoder {self.name}: no list of Transformer blocks found in "
                f"{type(self.model).__name__}; set align_encoders.trained to full or none"
            )
        while inner := _list_in(found[-1], _NESTED_LISTS):
            found = [*found[:-1], *inner]
        return found

    def _last_layer(self) -> nn.Module:
        return self._blocks()[-1]

    def _final_norm(self) -> nn.Module | None:
        return _first_of(self._tower(), _FINAL_NORMS)

    def _tower(self) -> nn.Module:
        """Return the part that computes vectors of this modality, before any projection."""
        if not self.has_two_towers:
            return self.model
        name = "text_model" if self.modality == "text" else "vision_model"
        return self.model.get_submodule(name)

    def _projection(self) -> nn.Module | None:
        if not self.has_two_towers:
            return None
        return _first_of(self.model, _PROJECTIONS[self.modality])

    def whole(self) -> TrainedParts:
        """See :meth:`ItemEncoder.whole`; of two towers only the one that is used."""
        parts = (self._tower(), self._projection())
        return TrainedParts(tuple(part for part in parts if part is not None))

    def last_block(self) -> TrainedParts:
        """See :meth:`ItemEncoder.last_block`; the pooler counts only where pooling uses it."""
        parts = [self._last_layer(), self._final_norm(), self._projection()]
        if self.pooling in ("pooler", "model"):
            parts.append(_first_of(self._tower(), _POOLERS))
        return TrainedParts(tuple(part for part in parts if part is not None))

    def _probe(
        self,
        items: Sequence[str] | Sequence[Image.Image],
        others: Sequence[str] | Sequence[Image.Image],
    ) -> None:
        """Find the width, and the cheapest head that gives what the whole model gives.

        How a model ends is not part of any interface, so a split is used only where it is seen
        to reproduce the model's own output on a probe.

        Args:
            items: a few that differ in content and, if texts, in length; the first is short.
            others: another number of items; if texts, one of them of the greatest length.

        Raises:
            EncoderError: if the model has no such pooling, or an item's vector is another one each
                time or beside other items.
        """
        self.eval()
        inputs, self._example = self.prepare(items), self.prepare(items[:1])
        with torch.no_grad():
            try:
                whole = self._whole(inputs)
                alone = self._whole(self._example)
            except (AttributeError, TypeError) as err:
                raise EncoderError(
                    f"encoder {self.name} has no output for pooling {self.pooling!r}: {err}"
                ) from err
            self._check_repeats(alone, whole[:1])
            self.dim = whole.shape[1]
            for head in (self._finish_pooled, self._finish):
                self._head = head
                if self._gives((inputs, whole)):
                    return
            further = self.prepare(others)
            with contextlib.suppress(*_MISFITS):
                self._substitutes = learn_substitutes(
                    self._blocks()[:-1], lambda: self._run(inputs)
                )
                self._head = self._pass_over
                wholes = ((inputs, whole), (self._example, alone), (further, self._whole(further)))
                if self._gives(*wholes) and self._is_constant_below():
                    return
        self._head = self._whole
        logger.info("encoder %s: no split below its last block is known", self.name)

    def _check_repeats(self, alone: Tensor, beside_others: Tensor) -> None:
        """Refuse a model that masks parts at random, or lets padding into its vectors."""
        difference = float((alone - beside_others).abs().max())
        if difference > _MOST_DIFFERENCE * float(beside_others.abs().max()):
            raise EncoderError(
                f"encoder {self.name}: an item's vector is another one each time, or beside other "
                f"items (by up to {difference:.3g}), so it is none of the item's own; choose "
                "another model"
            )

    def _gives(self, *wholes: tuple[EncoderInputs, Tensor]) -> bool:
        """Whether the split gives the vectors that the whole model gives of some batches."""
        states: list[EncoderInputs] = []
        halves: list[Tensor] = []
        with contextlib.suppress(*_MISFITS):
            # All trunks first: what a model remembers of the batch that it read last must not help.
            states = [self.trunk(inputs) for inputs, _ in wholes]
            halves = [self.head(some) for some in states]
        return len(halves) == len(wholes) and all(
            # States are kept item by item.
            len(some.values) == len(inputs.values)
            and half.shape == whole.shape
            and torch.allclose(half, whole, rtol=1e-4, atol=1e-5)
            for (inputs, whole), some, half in zip(wholes, states, halves, strict=True)
        )

    def _is_constant_below(self) -> bool:
        """Whether the weights of :meth:`last_block` are used in no other place below it."""
        modules = self.last_block().modules
        weights = [weight for module in modules for weight in module.parameters()]
        with torch.enable_grad():
            states = self.trunk(self._example).values
            reached = torch.autograd.grad(states.sum(), weights, allow_unused=True)
        return all(gradient is None for gradient in reached)

    def describe(self) -> dict[str, Any]:
        """See :meth:`ItemEncoder.describe`."""
        return {"library": "transformers", **self.origin, "pooling": self.pooling}


def _list_in(module: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    """Return the entries of the first list of modules found under one of ``names``."""
    for name in names:
        with contextlib.suppress(AttributeError):
            blocks = module.get_submodule(name)
            if isinstance(blocks, nn.ModuleList | nn.Sequential) and len(blocks):
                return list(blocks)
    return []


def _first_of(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    found = (getattr(module, name, None) for name in names)
    return next((part for part in found if isinstance(part, nn.Module)), None)


def _masked_mean(
    hidden: Float[Tensor, "batch length width"], mask: Bool[Tensor, "batch length"]
) -> Float[Tensor, "batch width"]:
    weights = mask.to(hidden.dtype)[:, :, None]
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


def load_local_first(
    what: str, load: Callable[..., Loaded], config: TransformersEncoderConfig
) -> Loaded:
    """Call ``load(source, ...)`` for what lies on this machine, then for the hub.

    Args:
        what: what is loaded, for the message.
        load: a ``from_pretrained`` function.
        config: names the model.

    Raises:
        EncoderError: if neither has it.
    """
    return model_files.load_local_first(
        what, load, config.model, config.revision, owner="encoder", error=EncoderError
    )


def load_pretrained_model(
    config: TransformersEncoderConfig,
) -> tuple[nn.Module, dict[str, Any]]:
    """Load a model without task heads, in float32, and say where it came from.

    Raises:
        EncoderError: if it cannot be had, is not safetensors, has a decoder, or weights it needs
            are missing.
    """

    def load(source: str, **arguments: Any) -> tuple[nn.Module, dict[str, Any]]:
        model, info = AutoModel.from_pretrained(
            source,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **arguments,
        )
        return model, info

    model, info = load_local_first("weights", load, config)
    if getattr(model.config, "is_encoder_decoder", False):
        raise EncoderError(
            f"encoder {config.model!r} is a {type(model).__name__}, an encoder with a decoder "
            "behind it that writes texts; choose a model that is an encoder alone"
        )
    if hasattr(model.config, "vision_config") and config.pooling != "model":
        raise EncoderError(
            f"encoder {config.model!r} holds a text and an image tower; set pooling: model, which "
            "takes the features it projects to the shared space, or use library: open_clip"
        )
    needed = [
        key
        for key in sorted(info["missing_keys"])
        if config.pooling in ("pooler", "model") or not key.startswith("pooler.")
    ]
    if needed or info["mismatched_keys"]:
        raise EncoderError(
            f"encoder {config.model!r}: the checkpoint lacks {len(needed)} weights the model needs "
            f"(e.g. {needed[:3]}) and {len(info['mismatched_keys'])} are of another shape; choose "
            "another pooling or another checkpoint"
        )
    revision = config.revision or getattr(model.config, "_commit_hash", None)
    origin = {
        "model": portable_name(config.model),
        "revision": revision,
        "source_digest": digest_weights(model),
    }
    return model, origin


def load_saved_model(folder: Path) -> nn.Module:
    """Read a model that :meth:`ItemEncoder.save` wrote, strictly.

    Raises:
        EncoderError: if files are missing or any weight is missing, unknown or of another shape.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        model, info = AutoModel.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError) as err:
        raise EncoderError(f"cannot read the encoder in {folder}: {err}") from err
    faults = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}
    if faults:
        raise EncoderError(f"the weights in {folder} do not fit the model: {faults}")
    loaded: nn.Module = model
    return loaded
