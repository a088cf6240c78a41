"""What every text and image encoder is: one encode function, a frozen trunk, a trained head.

``encode`` is the only way from an item to its vector, in tuning and in export alike; the reference
tunes the pooled output and exports the raw first token. It is the composition of two parts, so that
whatever is constant while only the last block is trained can be computed once per item::

    encode(inputs) = head(trunk(inputs))
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from PIL import Image
from torch import Tensor, nn

from sicsrec.errors import EncoderError

Modality = Literal["text", "image"]
Trained = Literal["last_block", "lora", "full", "none"]


@dataclass(frozen=True)
class EncoderInputs:
    """What an encoder computes on, for a batch of items."""

    values: Shaped[Tensor, "batch length ..."]
    """Token ids, pixels or hidden states, padded on the right along the second axis."""
    lengths: Int[Tensor, " batch"]
    """How much of the second axis is not padding."""

    def to(self, device: torch.device | str) -> "EncoderInputs":
        """Return the same inputs on another device."""
        return EncoderInputs(self.values.to(device), self.lengths.to(device))

    @property
    def mask(self) -> Bool[Tensor, "batch length"]:
        """True where the second axis is not padding."""
        positions = torch.arange(self.values.shape[1], device=self.lengths.device)
        return positions < self.lengths[:, None]


Prepare = Callable[[Sequence[str] | Sequence[Image.Image]], EncoderInputs]
"""Turns texts or RGB images into what an encoder computes on."""


@dataclass(frozen=True)
class TrainedParts:
    """The parts of an encoder whose weights move."""

    modules: tuple[nn.Module, ...]
    parameters: tuple[nn.Parameter, ...] = ()
    """Parameters that belong to no module of their own, e.g. a projection matrix."""


class ItemEncoder(nn.Module, ABC):
    """Turns texts or images into vectors."""

    kind: str
    """Name in :data:`sicsrec.encoders.ENCODERS`."""
    modality: Modality
    name: str
    """Which model this is, for people: hub id, folder or architecture."""
    dim: int
    """Width of the vectors."""

    def __init__(self) -> None:
        super().__init__()
        self._moving: tuple[nn.Module, ...] = ()
        self._trunk_moves = False

    @abstractmethod
    def preparer(self) -> Prepare:
        """Return what tokenises texts or preprocesses RGB images on the CPU.

        It knows nothing of the weights and can be sent to another process.
        """

    def prepare(self, items: Sequence[str] | Sequence[Image.Image]) -> EncoderInputs:
        """Tokenise texts or preprocess RGB images, on the CPU."""
        return self.preparer()(items)

    @abstractmethod
    def trunk(self, inputs: EncoderInputs) -> EncoderInputs:
        """Compute all below the last block; the inputs themselves where no such split is known."""

    @abstractmethod
    def head(self, states: EncoderInputs) -> Float[Tensor, "batch width"]:
        """Compute vectors from what :meth:`trunk` returned."""

    @abstractmethod
    def last_block(self) -> TrainedParts:
        """Return the last Transformer block and what follows it: norm, pooler, projection.

        Raises:
            EncoderError: if the architecture has no last block that can be named.
        """

    def whole(self) -> TrainedParts:
        """Return everything that a vector is computed with."""
        return TrainedParts(tuple(self.children()))

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return library, model, revision, pooling and preprocessing as JSON values."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write weights and everything else that :meth:`load` needs."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, description: dict[str, Any]) -> "ItemEncoder":
        """Read what :meth:`save` wrote, strictly and without a hub.

        Raises:
            EncoderError: if files are missing or weights do not fit.
        """

    def encode(self, inputs: EncoderInputs) -> Float[Tensor, "batch width"]:
        """Return the vectors of a batch; not normalised."""
        return self.head(self.trunk(inputs))

    def forward(self, inputs: EncoderInputs) -> Float[Tensor, "batch width"]:
        """See :meth:`encode`."""
        return self.encode(inputs)

    def set_trained(self, trained: Trained) -> None:
        """Choose the weights that move; all others are frozen, and so is their dropout.

        Args:
            trained: ``last_block``: the last block and what follows it (the paper); ``lora``: the
                low-rank weights that :func:`sicsrec.encoders.lora.add_lora` put in; ``full``: all;
                ``none``: nothing.

        Raises:
            EncoderError: if the architecture has no last block that can be named.
        """
        self.requires_grad_(False)
        parts = TrainedParts(())
        if trained == "full":
            parts = self.whole()
        elif trained == "last_block":
            parts = self.last_block()
        elif trained == "lora":
            parts = self._lora_parts()
        for module in parts.modules:
            module.requires_grad_(True)
        for parameter in parts.parameters:
            parameter.requires_grad_(True)
        self._moving = parts.modules
        self._trunk_moves = trained in ("full", "lora")
        self.train(self.training)

    def _lora_parts(self) -> TrainedParts:
        dropouts = (
            module for name, module in self.named_modules() if name.endswith(".lora_dropout")
        )
        weights = (weight for name, weight in self.named_parameters() if ".lora_" in name)
        return TrainedParts(tuple(dropouts), tuple(weights))

    @property
    def trunk_is_constant(self) -> bool:
        """Whether the output of :meth:`trunk` cannot change in training."""
        return not self._trunk_moves

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Return the weights that move, by name."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def train(self, mode: bool = True) -> "ItemEncoder":
        """Set the mode of the moving parts; frozen parts stay in evaluation mode.

        "Frozen" with active dropout is a moving target: the reference leaves it on.
        """
        super().train(False)
        self.training = mode
        for module in self._moving:
            module.train(mode)
        return self


def block_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the hidden states among what a block is called with."""
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


class _LastBlockReachedError(Exception):
    """Carries the last block's input out of a forward pass that need not go on."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def run_until(block: nn.Module, forward: Callable[[], object]) -> Tensor:
    """Run ``forward`` up to ``block`` and return the hidden states the block would have read.

    Raises:
        EncoderError: if the forward pass never calls the block.
    """

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _LastBlockReachedError(block_input(args, kwargs))

    handle = block.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        forward()
    except _LastBlockReachedError as reached:
        return reached.hidden
    finally:
        handle.remove()
    raise EncoderError(f"the model never calls its last block {type(block).__name__}")
