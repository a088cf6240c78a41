"""The loss of one batch and its gradient: ``L = L_t2t + L_v2v + L_t2v``."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from sicsrec.encoders.losses import (
    Remembered,
    batch_negatives,
    cross_modal_contrast,
    pair_contrast,
)
from sicsrec.training.memory_bank import MemoryBank
from sicsrec.training.pair_batches import PAIR_TERMS, Batch, mark_items
from sicsrec.training.tower import SeedChunk, Tower

SeedModality = Callable[[str], SeedChunk]
"""Returns what seeds the chunks of one modality in this step."""


class Objective:
    """Computes the terms of the loss, and gradients, of batches one after the other.

    In-batch negatives join every item of a batch to every other, so adding up the gradients of
    smaller batches is not the gradient of the large one. With ``gradient_cache`` it is: all
    vectors are computed without a graph, the loss's gradient to the vectors is taken, and then each
    chunk of items is encoded again and its share of that gradient passed on to the weights. Dropout
    draws the same both times.

    Args:
        towers: by modality.
        takes_part: [N + 1]; whether an item takes part in the text-image term.
        temperature: of all terms.
        banks: of the same modalities; negatives from earlier batches.
        gradient_cache: whether memory is bounded by a chunk instead of by a batch.
    """

    def __init__(
        self,
        towers: Mapping[str, Tower],
        takes_part: NDArray[np.bool_],
        temperature: float,
        banks: Mapping[str, MemoryBank],
        *,
        gradient_cache: bool = False,
    ) -> None:
        self._towers = towers
        self._takes_part = takes_part
        self._temperature = temperature
        self._banks = banks
        self._gradient_cache = gradient_cache

    def backward(self, batch: Batch, step: int, seeds: SeedModality) -> dict[str, Tensor]:
        """Add the gradient of a batch to the weights and its vectors to the bank.

        Args:
            batch: pairs and items.
            step: number of the optimiser step, the clock of the bank.
            seeds: seeds what encoding draws.

        Returns:
            Those terms of the loss that the batch has something to contrast for, detached.
        """
        for bank in self._banks.values():
            bank.expire(step)
        with torch.set_grad_enabled(not self._gradient_cache):
            encoded = {
                name: tower.encode(batch.items, seeds(name)) for name, tower in self._towers.items()
            }
        if self._gradient_cache:
            encoded = {name: vectors.requires_grad_() for name, vectors in encoded.items()}
        losses = self.terms(batch, encoded)
        total = sum(losses.values())
        if isinstance(total, Tensor) and torch.isfinite(total):
            torch.autograd.backward(total)
            if self._gradient_cache:
                self._pass_on(batch, encoded, seeds)
        self._remember(batch, encoded, step)
        return {name: loss.detach() for name, loss in losses.items()}

    def terms(
        self, batch: Batch, encoded: Mapping[str, Float[Tensor, "items width"]]
    ) -> dict[str, Tensor]:
        """Return the terms of the loss that the batch has something to contrast for.

        Args:
            batch: pairs and items.
            encoded: by modality, adapter outputs of the batch's items.
        """
        losses = {
            f"loss_{PAIR_TERMS[name]}": self._pair_term(batch, name, vectors)
            for name, vectors in encoded.items()
        }
        if len(encoded) == 2:
            losses["loss_t2v"] = self._cross_modal_term(batch, encoded["text"], encoded["image"])
        return {name: loss for name, loss in losses.items() if loss is not None}

    def _pass_on(self, batch: Batch, encoded: Mapping[str, Tensor], seeds: SeedModality) -> None:
        for name, tower in self._towers.items():
            gradient = encoded[name].grad
            if gradient is None:
                continue
            seed_chunk = seeds(name)
            for number, rows in enumerate(tower.chunks(batch.items)):
                seed_chunk(number)
                vectors = tower.encode_chunk(batch.items[rows])
                share = gradient[torch.from_numpy(rows).to(gradient.device)]
                torch.autograd.backward(vectors, grad_tensors=share)

    def _remember(self, batch: Batch, encoded: Mapping[str, Tensor], step: int) -> None:
        for name, bank in self._banks.items():
            rows = np.flatnonzero(self._towers[name].has_modality[batch.items])
            there = torch.from_numpy(rows).to(encoded[name].device)
            bank.add(batch.items[rows], encoded[name].detach()[there], step)

    def _pair_term(self, batch: Batch, name: str, vectors: Tensor) -> Tensor | None:
        tower, device = self._towers[name], vectors.device
        anchors, positives, own_negatives, known = (
            torch.from_numpy(array).to(device)
            for array in (
                batch.anchors, batch.positives, batch.own_negatives, batch.known_positives
            )
        )  # fmt: skip
        twins = tower.twins(batch.items, batch.items)
        negatives = batch_negatives(anchors, positives, own_negatives, known, twins)
        return pair_contrast(
            vectors, anchors, positives, negatives, tower.present(batch.items), self._temperature,
            self._remembered_by_pairs(batch, name),
        )  # fmt: skip

    def _cross_modal_term(self, batch: Batch, text: Tensor, image: Tensor) -> Tensor | None:
        items, device = batch.items, text.device
        present = torch.from_numpy(self._takes_part[items]).to(device)
        for tower in self._towers.values():
            present = present & tower.present(items)
        same = self._alike(items, items)
        remembered = (self._remembered_by_items(items, "text"),
                      self._remembered_by_items(items, "image"))  # fmt: skip
        is_used = bool(len(remembered[0].vectors) or len(remembered[1].vectors))
        return cross_modal_contrast(
            text, image, same, present, self._temperature, remembered if is_used else None
        )

    def _alike(
        self, rows: NDArray[np.integer], columns: NDArray[np.integer]
    ) -> Bool[Tensor, "rows columns"]:
        """Return which items have the same text or the same cover."""
        twins = [tower.twins(rows, columns) for tower in self._towers.values()]
        return torch.stack(twins).any(dim=0)

    def _remembered_by_pairs(self, batch: Batch, name: str) -> Remembered | None:
        bank, tower = self._banks[name], self._towers[name]
        if not len(bank.items):
            return None
        is_new = torch.from_numpy(~np.isin(bank.items, batch.items)).to(tower.device)
        known = torch.from_numpy(mark_items(bank.items, batch.known)).to(tower.device)
        alike = tower.twins(batch.items, bank.items)
        anchors, positives = batch.anchors, batch.positives
        negatives = is_new & ~known & ~(alike[anchors] | alike[positives])
        return Remembered(bank.vectors, negatives)

    def _remembered_by_items(self, items: NDArray[np.int32], name: str) -> Remembered:
        bank, device = self._banks[name], self._towers[name].device
        counts = ~np.isin(bank.items, items) & self._takes_part[bank.items]
        for tower in self._towers.values():
            counts &= tower.has_modality[bank.items]
        alike = self._alike(items, bank.items)
        return Remembered(bank.vectors, torch.from_numpy(counts).to(device) & ~alike)
