"""Vision encoders of the transformers library."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, BaseImageProcessor

from sicsrec.config.encoders import TransformersEncoderConfig
from sicsrec.encoders.base import EncoderInputs, Prepare
from sicsrec.encoders.transformer import (
    ORIGIN,
    Pooling,
    TransformerEncoder,
    load_local_first,
    load_pretrained_model,
    load_saved_model,
)
from sicsrec.errors import EncoderError


class ImageTransformerEncoder(TransformerEncoder):
    """A vision model with its image processor.

    Args:
        model: the model without task heads.
        processor: its image processor.
        pooling: how patch vectors become one vector.
        origin: where the model came from.

    Raises:
        EncoderError: if the model has no such pooling.
    """

    kind = "transformers_image"
    modality = "image"

    def __init__(
        self,
        model: nn.Module,
        processor: BaseImageProcessor,
        pooling: Pooling,
        origin: dict[str, Any],
    ) -> None:
        super().__init__(model, pooling, origin)
        self.processor = processor
        # Not plain colours: on a constant image a wrong split could look right.
        gradients = (Image.radial_gradient("L"), Image.linear_gradient("L"))
        probe = [gradient.convert("RGB") for gradient in gradients]
        self._probe(probe, [*(image.rotate(90) for image in probe), *probe])

    @classmethod
    def build(cls, config: TransformersEncoderConfig, seed: int) -> "ImageTransformerEncoder":
        """Load a pretrained model.

        Raises:
            EncoderError: if it cannot be loaded.
        """
        del seed
        model, origin = load_pretrained_model(config)
        processor = load_local_first("image processor", AutoImageProcessor.from_pretrained, config)
        return cls(model, processor, config.pooling, origin)

    def preparer(self) -> Prepare:
        """See :meth:`ItemEncoder.preparer`; ``values`` are pixels [batch, 3, height, width]."""
        return partial(_prepare_images, self.processor)

    def _run(self, inputs: EncoderInputs) -> Any:
        call: Any = self.model.get_image_features if self.has_two_towers else self.model
        return call(pixel_values=inputs.values)

    def _stand_in(self, states: EncoderInputs) -> EncoderInputs:
        """See :meth:`TransformerEncoder._stand_in`; one number takes the place of all pixels."""
        known = self._example.values
        nothing = torch.zeros((), dtype=known.dtype, device=states.values.device)
        pixels = nothing.expand(len(states.values), *known.shape[1:])
        return EncoderInputs(pixels, states.lengths)

    def describe(self) -> dict[str, Any]:
        """See :meth:`ItemEncoder.describe`."""
        return {**super().describe(), "preprocessing": self.processor.to_dict()}

    def save(self, folder: Path) -> None:
        """See :meth:`ItemEncoder.save`."""
        self.model.save_pretrained(folder)  # type: ignore[operator]
        self.processor.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path, description: dict[str, Any]) -> "ImageTransformerEncoder":
        """See :meth:`ItemEncoder.load`."""
        model = load_saved_model(folder)
        try:
            processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as err:
            raise EncoderError(f"cannot read the image processor in {folder}: {err}") from err
        origin = {key: description[key] for key in ORIGIN}
        return cls(model, processor, description["pooling"], origin)


def _prepare_images(processor: BaseImageProcessor, items: Sequence[Image.Image]) -> EncoderInputs:
    pixels = processor(images=list(items), return_tensors="pt")["pixel_values"]
    return EncoderInputs(pixels, torch.full((len(pixels),), pixels.shape[1]))
