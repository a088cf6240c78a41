"""Other people's SASRec, trained as their packages do it. Runs under their interpreter, not ours.

Nothing of the project is imported here: the packages live in an environment of their own. Called as
``python peers.py PEER MODE ARGUMENTS``: ARGUMENTS is JSON, ``histories`` in it names an npz file
with ``items`` (from 1), ``starts`` of every user's history in them, its ends before the target of
``train``, ``valid`` and ``test``, and ``n_items``. The last line of the output is JSON.
"""

import json
import sys
import time
import warnings
from collections.abc import Iterator

import numpy as np
import torch

WIDTH, BLOCKS, HEADS, DROPOUT, LENGTH, RATE = 256, 2, 2, 0.5, 50, 1e-3
SEQUENCES = 256
"""Sequences in a batch; on Bili_Food they hold about as many targets as a batch of ours."""


class Data:
    """Histories of an npz file."""

    def __init__(self, path: str) -> None:
        with np.load(path, allow_pickle=False) as file:
            self.items, self.starts = file["items"], file["starts"]
            self.ends = {part: file[part] for part in ("train", "valid", "test")}
            self.n_items = int(file["n_items"])

    def histories(self, part: str) -> list[np.ndarray]:
        """Return every user's items before the target of a part; ``train``: all training items."""
        return [self.items[a:b] for a, b in zip(self.starts, self.ends[part], strict=True)]


class RecTools:
    """``rectools.models.SASRecModel`` with its softmax loss."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.train = self._dataset("train")
        self.model = self._make(None)

    def _make(self, get_trainer):
        from rectools.models import SASRecModel

        return SASRecModel(
            n_blocks=BLOCKS,
            n_heads=HEADS,
            n_factors=WIDTH,
            dropout_rate=DROPOUT,
            session_max_len=LENGTH,
            loss="softmax",
            lr=RATE,
            batch_size=SEQUENCES,
            recommend_torch_device="cpu",
            get_trainer_func=get_trainer,
        )

    def _dataset(self, part: str):
        import pandas as pd
        from rectools.dataset import Dataset

        histories = self.data.histories(part)
        lengths = [len(items) for items in histories]
        frame = pd.DataFrame(
            {
                "user_id": np.repeat(np.arange(len(histories)), lengths),
                "item_id": np.concatenate(histories),
                "weight": 1.0,
                "datetime": pd.to_datetime(
                    np.concatenate([np.arange(n) for n in lengths]), unit="s"
                ),
            }
        )
        return Dataset.construct(frame)

    def measure(self, n_warm_up: int, n_batches: int) -> dict[str, float]:
        from pytorch_lightning import Callback, Trainer

        class Clock(Callback):
            def on_train_batch_start(self, trainer, module, batch, number):
                if number == n_warm_up:
                    self.wall, self.process, self.targets = (
                        time.perf_counter(),
                        time.process_time(),
                        0,
                    )
                if number >= n_warm_up:
                    self.targets += int((batch["y"] > 0).sum())

        clock = Clock()

        def get_trainer() -> Trainer:
            return Trainer(
                max_epochs=1,
                limit_train_batches=n_warm_up + n_batches,
                callbacks=[clock],
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )

        model = self._make(get_trainer)
        model.fit(self.train)
        # Lightning trains a copy of the trainer, which holds the copy of the clock that ran.
        [clock] = [c for c in model.fit_trainer.callbacks if isinstance(c, Clock)]
        return {
            "targets": clock.targets,
            "wall": time.perf_counter() - clock.wall,
            "process": time.process_time() - clock.process,
        }

    def train_epoch(self) -> None:
        self.model.fit_partial(self.train, min_epochs=1, max_epochs=1)

    def recommend(self, part: str) -> np.ndarray:
        users = np.arange(len(self.data.starts))
        frame = self.model.recommend(
            users, self._dataset(part), k=10, filter_viewed=False, on_unsupported_targets="ignore"
        )
        top = np.zeros((len(users), 10), dtype=np.int64)
        top[frame["user_id"].to_numpy(), frame["rank"].to_numpy() - 1] = frame["item_id"]
        return top


class RePlay:
    """``replay.nn.sequential.SasRec`` with its length-bucketed encoder and its CE loss.

    Batches are made here, from arrays in memory, and trained by a plain loop: faster than by way of
    RePlay's Parquet files and Lightning, so what is measured is the model.
    """

    def __init__(self, data: Data, bucket_size: int = 32) -> None:
        from replay.data import FeatureHint, FeatureType
        from replay.data.nn import TensorFeatureInfo, TensorSchema
        from replay.nn.sequential import LengthBucketedQueryEncoder, SasRec

        item = TensorFeatureInfo(
            "item_id",
            FeatureType.CATEGORICAL,
            is_seq=True,
            feature_hint=FeatureHint.ITEM_ID,
            cardinality=data.n_items,
            padding_value=data.n_items,
            embedding_dim=WIDTH,
        )
        torch.manual_seed(0)
        self.data, self.padding = data, data.n_items
        self.model = SasRec.from_params(
            TensorSchema([item]),
            embedding_dim=WIDTH,
            num_heads=HEADS,
            num_blocks=BLOCKS,
            max_sequence_length=LENGTH,
            dropout=DROPOUT,
        )
        if bucket_size:
            self.model.body.encoder = LengthBucketedQueryEncoder(
                self.model.body.encoder, bucket_size
            )
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=RATE, betas=(0.9, 0.98))
        self.rng = np.random.default_rng(0)

    def _rows(self, histories: list[np.ndarray]) -> torch.Tensor:
        """Return items from 0, padded on the left."""
        rows = np.full((len(histories), LENGTH), self.padding, dtype=np.int64)
        for row, items in zip(rows, histories, strict=True):
            kept = items[-LENGTH:]
            row[LENGTH - len(kept) :] = kept - 1
        return torch.from_numpy(rows)

    def _batches(self) -> Iterator[dict]:
        histories = [items for items in self.data.histories("train") if len(items) > 1]
        order = self.rng.permutation(len(histories))
        for start in range(0, len(order), SEQUENCES):
            chosen = [histories[row] for row in order[start : start + SEQUENCES]]
            inputs = self._rows([items[:-1] for items in chosen])
            labels = self._rows([items[1:] for items in chosen])
            yield {
                "feature_tensors": {"item_id": inputs},
                "padding_mask": inputs != self.padding,
                "positive_labels": labels.unsqueeze(-1),
                "target_padding_mask": (labels != self.padding).unsqueeze(-1),
            }

    def _step(self, batch: dict) -> int:
        self.model.train()
        loss = self.model(**batch)["loss"]
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return int(batch["target_padding_mask"].sum())

    def measure(self, n_warm_up: int, n_batches: int) -> dict[str, float]:
        targets = number = 0
        while number < n_warm_up + n_batches:
            for batch in self._batches():
                if number == n_warm_up:
                    wall, process = time.perf_counter(), time.process_time()
                n_targets = self._step(batch)
                targets += n_targets if number >= n_warm_up else 0
                number += 1
                if number == n_warm_up + n_batches:
                    break
        return {
            "targets": targets,
            "wall": time.perf_counter() - wall,
            "process": time.process_time() - process,
        }

    def train_epoch(self) -> None:
        for batch in self._batches():
            self._step(batch)

    @torch.no_grad()
    def recommend(self, part: str) -> np.ndarray:
        self.model.eval()
        histories, top = self.data.histories(part), []
        for start in range(0, len(histories), 256):
            rows = self._rows(histories[start : start + 256])
            mask = rows != self.padding
            logits = self.model(feature_tensors={"item_id": rows}, padding_mask=mask)["logits"]
            top.append(logits[:, : self.data.n_items].topk(10).indices.numpy() + 1)
        return np.concatenate(top)


def hit_rate(top: np.ndarray, targets: np.ndarray) -> float:
    return float((top == targets[:, None]).any(1).mean())


def fit(peer: RecTools | RePlay, max_epochs: int, patience: int, output: str) -> dict[str, float]:
    """Train, choose the epoch by HR@10 on validation, and write its test recommendations."""
    targets = peer.data.items[peer.data.ends["valid"]]
    best, best_epoch, epoch = -1.0, 0, 0
    while epoch < max_epochs and epoch - best_epoch < patience:
        epoch += 1
        peer.train_epoch()
        value = hit_rate(peer.recommend("valid"), targets)
        if value > best:
            best, best_epoch = value, epoch
            np.savez(output, top=peer.recommend("test"))
    return {"best_epoch": best_epoch, "epochs": epoch, "valid_hr_at_10": best}


def main() -> None:
    name, mode, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    warnings.simplefilter("ignore")
    peer = {"rectools": RecTools, "replay": RePlay}[name](Data(arguments.pop("histories")))
    found = peer.measure(**arguments) if mode == "measure" else fit(peer, **arguments)
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
