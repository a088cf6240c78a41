"""A training as a folder: what several processes that are to train one model are given."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from sicsrec.data.sequences import Histories
from sicsrec.evaluation.metrics import mean_metrics
from sicsrec.evaluation.ranking import RankingSet, rank_targets
from sicsrec.models.base import SequenceModel
from sicsrec.models.candidates import CandidateSampler
from sicsrec.models.storage import load_model, save_model
from sicsrec.training.sequential import FitSettings


@dataclass(frozen=True)
class Validation:
    """How a model is judged after an epoch: by ranking held-out targets."""

    targets: RankingSet
    cutoffs: tuple[int, ...]
    remove_seen: bool

    def __call__(self, model: SequenceModel) -> dict[str, float]:
        """Return the metrics; the users are shared by the model's peers."""
        peers = model.peers
        rows = np.arange(peers.rank, len(self.targets), peers.size)
        ranks = rank_targets(
            model.fixed(),
            self.targets.histories.take(rows),
            self.targets.targets[rows],
            remove_seen=self.remove_seen,
        )
        # Each process gets to know the ranks of all users, for all have to stop together.
        padded = np.zeros(-(-len(self.targets) // peers.size), dtype=np.int64)
        padded[: len(ranks)] = ranks
        found = torch.stack(peers.collect(torch.from_numpy(padded)), dim=1)
        return mean_metrics(found.flatten().numpy()[: len(self.targets)], self.cutoffs)


@dataclass(frozen=True)
class Job:
    """A model, what it is trained on, and how."""

    model: SequenceModel
    train: Histories
    validation: Validation | None
    """None: every epoch counts as the best so far."""
    settings: FitSettings

    def write(self, folder: Path) -> None:
        """Write all of it; no user id is part of it, for nothing in training asks for one."""
        (folder / "model").mkdir(parents=True, exist_ok=True)
        save_model(self.model, folder / "model")
        arrays: dict[str, NDArray[np.integer]] = {
            "train_offsets": self.train.offsets,
            "train_items": self.train.items,
        }
        content: dict[str, Any] = {"settings": asdict(self.settings), "validation": None}
        if self.validation is not None:
            ranking = self.validation.targets
            arrays["valid_offsets"] = ranking.histories.offsets
            arrays["valid_items"] = ranking.histories.items
            arrays["valid_targets"] = ranking.targets
            content["validation"] = {
                "cutoffs": self.validation.cutoffs,
                "remove_seen": self.validation.remove_seen,
            }
        if self.model.candidates is not None:
            arrays["target_counts"] = self.model.candidates.target_counts.cpu().numpy()
            content["n_sampled"] = self.model.candidates.n_sampled
        content["trained"] = [
            name for name, weight in self.model.named_parameters() if weight.requires_grad
        ]
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
        (folder / "job.json").write_text(json.dumps(content, indent=2), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, device: torch.device) -> "Job":
        """Read what :meth:`write` wrote; processes on one machine share the arrays' memory."""

        def load(name: str) -> NDArray[Any]:
            array: NDArray[Any] = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            return array

        content = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        model = load_model(folder / "model").to(device)
        for name, weight in model.named_parameters():
            weight.requires_grad_(name in content["trained"])
        if "n_sampled" in content:
            counts = torch.from_numpy(np.array(load("target_counts")))
            model.candidates = CandidateSampler(content["n_sampled"], counts)
        validation = None
        if content["validation"] is not None:
            ranking = RankingSet(_histories("valid", load), load("valid_targets"))
            values = content["validation"]
            validation = Validation(ranking, tuple(values["cutoffs"]), values["remove_seen"])
        return cls(model, _histories("train", load), validation, FitSettings(**content["settings"]))


def _histories(part: str, load: Callable[[str], NDArray[Any]]) -> Histories:
    offsets = load(f"{part}_offsets")
    users = pl.int_range(len(offsets) - 1, eager=True)
    return Histories(users, offsets, load(f"{part}_items"))
