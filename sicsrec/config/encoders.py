"""Text and image encoders, and how ``align_encoders`` tunes them."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from sicsrec.config.base import PositiveInt, Rate, Section


class TransformersEncoderConfig(Section):
    """Any text or vision model of the transformers library."""

    library: Literal["transformers"] = "transformers"
    model: str
    """Hub id, local folder, or ``package:<module>/<folder>`` for a model inside an installed
    Python package."""
    revision: str | None = None
    """Commit or tag on the hub."""
    pooling: Literal["cls", "mean", "pooler", "model"] = "mean"
    """How token vectors become one vector. ``model``: the model's own way, i.e. the projected
    features of a model with a text and an image tower (CLIP, SigLIP), else its pooler."""
    max_tokens: PositiveInt = 64
    """Longest text, in tokens; text models only."""


class OpenClipArchitectureConfig(Section):
    """A small CLIP made on the spot with random weights, for runs without a network."""

    width: PositiveInt = 64
    """Width of both towers and of the shared space."""
    n_layers: PositiveInt = 2
    """Blocks of each tower."""
    n_heads: PositiveInt = 2
    """Attention heads of each tower."""
    image_size: PositiveInt = 64
    """Side of the input image in pixels."""
    patch_size: PositiveInt = 16
    """Side of a patch in pixels."""
    context_length: PositiveInt = 32
    """Longest text in tokens."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "OpenClipArchitectureConfig":
        if self.width % self.n_heads:
            raise ValueError(f"n_heads ({self.n_heads}) must divide width ({self.width})")
        return self


class OpenClipEncoderConfig(Section):
    """The text or the image tower of any open_clip model."""

    library: Literal["open_clip"] = "open_clip"
    model: str | None = None
    """Architecture name, ``hf-hub:<id>`` or ``local-dir:<folder>``."""
    pretrained: str | None = None
    """Weights tag of ``model``, as open_clip lists it; weights of your own are a folder, see
    ``model``."""
    architecture: OpenClipArchitectureConfig | None = None
    """In place of ``model``: a small model with random weights."""

    @field_validator("pretrained")
    @classmethod
    def _tag(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w-]+", value):
            raise ValueError(
                "is the tag of weights that open_clip lists, such as laion2b_s34b_b79k; weights of "
                "your own are a folder: give local-dir:<folder> as model"
            )
        return value

    @model_validator(mode="after")
    def _model_or_architecture(self) -> "OpenClipEncoderConfig":
        if (self.model is None) == (self.architecture is None):
            raise ValueError("give either model or architecture")
        if self.pretrained is not None and self.model is None:
            raise ValueError("pretrained needs model")
        return self


EncoderConfig = Annotated[
    TransformersEncoderConfig | OpenClipEncoderConfig, Field(discriminator="library")
]


Precision = Literal["auto", "float32", "bfloat16"]
"""``auto``: what is fastest; for encoders bfloat16 autocast on CUDA, float32 elsewhere."""
VectorDtype = Literal["float32", "float16"]


class LoraConfig(Section):
    """Low-rank weights beside every linear layer of an encoder; merged before it is saved."""

    rank: PositiveInt = 8
    """Inner width of the low-rank weights."""
    alpha: Annotated[float, Field(gt=0.0)] = 16.0
    """Their product is scaled by ``alpha / rank``."""
    dropout: Rate = 0.0
    """Dropout of their input."""


class MemoryBankConfig(Section):
    """Adapter outputs of earlier batches as further negatives (cross-batch memory)."""

    size: Annotated[int, Field(ge=0)] = 0
    """Most items kept per modality; 0: no bank."""
    max_age_steps: PositiveInt = 100
    """Vectors older than so many optimiser steps are dropped: the weights have moved on."""


class AlignEncodersConfig(Section):
    """Joint fine-tuning of a text and an image encoder (the paper's content alignment)."""

    text_encoder: EncoderConfig | None = None
    """None: items have no text vectors."""
    image_encoder: EncoderConfig | None = None
    """None: items have no image vectors."""
    trained: Literal["last_block", "lora", "full", "none"] = "last_block"
    """Which weights of the encoders move; the paper trains the last block and the head. ``lora``
    needs the extra of that name."""
    image_trained: Literal["last_block", "lora", "full", "none"] | None = None
    """The same for the image encoder alone; None: as ``trained``. A tower made on the spot has to
    be trained in full beside a pretrained text encoder."""
    lora: LoraConfig = LoraConfig()
    """The low-rank weights of ``trained: lora``."""
    adapter_hidden_width: PositiveInt = 128
    """Inner width of the two-layer adapters that the losses are computed on."""
    adapter_width: PositiveInt = 64
    """Output width of these adapters."""
    temperature: Annotated[float, Field(gt=0.0)] = 0.05
    """Temperature of the three contrastive losses."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Pairs in a batch."""
    n_epochs: PositiveInt = 10
    """Passes over the pairs."""
    held_aside_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    """Share of the pairs, and of the items with text and image, that are not trained on but asked
    about before and after."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-5
    """Of the encoders' trained weights."""
    image_learning_rate: Annotated[float, Field(gt=0.0)] | None = None
    """The same for the image encoder alone; None: as ``learning_rate``."""
    adapter_learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    """Of the adapters, which start from random weights."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    """Of all these weights, as AdamW decays them. The paper names none; this is torch's default."""
    memory_bank: MemoryBankConfig = MemoryBankConfig()
    """Negatives from earlier batches."""
    precision: Precision = "auto"
    """What the encoders compute in while they are trained; losses are always float32."""
    items_at_a_time: PositiveInt = 64
    """Items that go through an encoder together; on an accelerator more are faster."""
    gradient_cache: bool = False
    """Whether each batch is encoded twice, the first time without keeping anything for the
    gradient, so that memory grows with ``items_at_a_time`` and not with ``batch_size``. The
    gradient is that of the whole batch."""
    max_cache_bytes: Annotated[int, Field(ge=0)] = 32 << 30
    """Most disk space, per encoder, for what is constant per item; with more to keep, every batch
    is computed from texts and covers anew."""
    cache_dtype: VectorDtype = "float32"
    """How hidden states and pixels are kept; ``float16`` halves the space and rounds them."""
