"""A trained model in a folder, ready to recommend; needs neither pipeline nor store.

::

    recommender = Recommender.load("export/model")
    recommender.recommend(["item-17", "item-4"], k=10)

The folder is what the step ``export`` writes as its output ``model``: ``config.json``,
``model.safetensors``, ``items.parquet`` and ``model_card.json``; and, where a blend ranks in place
of the model alone, ``id_encoder/`` and ``blend/``.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from sicsrec.data.sequences import Histories
from sicsrec.errors import ArtifactError, DataError
from sicsrec.evaluation.ranking import Scorer, recommend
from sicsrec.models.base import SequenceModel
from sicsrec.models.blend_storage import load_blend
from sicsrec.models.storage import load_model

logger = logging.getLogger(__name__)

ITEMS_FILE = "items.parquet"
"""Columns item_id (string) and item_index (int32, 1..N)."""
ID_ENCODER_FOLDER = "id_encoder"
BLEND_FOLDER = "blend"


class Recommender:
    """Recommends items that go well after a history of item ids.

    Args:
        model: a trained model.
        items: columns item_id and item_index, which must count 1..N.
        scorer: what ranks in place of the model alone, e.g. a blend.

    Raises:
        ArtifactError: if the items are not those of the model.
    """

    def __init__(
        self, model: SequenceModel, items: pl.DataFrame, scorer: Scorer | None = None
    ) -> None:
        missing = {"item_id", "item_index"} - set(items.columns)
        if missing:
            raise ArtifactError(f"{ITEMS_FILE} lacks the columns {sorted(missing)}")
        items = items.sort("item_index")
        indices = items["item_index"].to_numpy()
        if not np.array_equal(indices, np.arange(1, model.n_items + 1)):
            raise ArtifactError(
                f"{ITEMS_FILE} has {items.height} items, item_index must count 1..{model.n_items}, "
                "the items of the model"
            )
        self.model = model
        self.scorer: Scorer = model if scorer is None else scorer
        self._item_ids = items["item_id"]
        self._index_of = {item_id: row + 1 for row, item_id in enumerate(self._item_ids)}
        if len(self._index_of) != items.height:
            raise ArtifactError(f"{ITEMS_FILE}: some item ids occur more than once")

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: str = "cpu") -> "Recommender":
        """Read a model folder.

        Args:
            folder: the folder.
            device: torch device the model runs on.

        Raises:
            ArtifactError: if a file is missing or the files do not belong together.
        """
        path = Path(folder)
        if not (path / ITEMS_FILE).is_file():
            raise ArtifactError(
                f"{path} has no {ITEMS_FILE}; expected a folder that the export step wrote"
            )
        model = load_model(path, device)
        scorer: Scorer = model
        if (path / BLEND_FOLDER).is_dir():
            id_encoder = load_model(path / ID_ENCODER_FOLDER, device)
            scorer = load_blend(path / BLEND_FOLDER, [id_encoder, model])
        return cls(model, pl.read_parquet(path / ITEMS_FILE), scorer)

    @property
    def item_ids(self) -> list[str]:
        """Ids of all items that can be recommended, in the order of their index."""
        return self._item_ids.to_list()

    def recommend(
        self, history: Sequence[str], k: int = 10, *, remove_seen: bool = True
    ) -> pl.DataFrame:
        """Return the k best next items after a history.

        Ids that the model does not know, such as items newer than the model, are left out of the
        history with a logged warning.

        Args:
            history: item ids in time order, oldest first; only the most recent
                ``model.max_history_length`` known ones are read.
            k: most items to return.
            remove_seen: leave out the items of the history.

        Returns:
            Columns item_id, rank (from 1) and score, best first; fewer than k rows when fewer
            items are left.

        Raises:
            DataError: if the history is a single string, or holds no item the model knows: such a
                history says nothing about the user.
        """
        if isinstance(history, str):
            raise DataError(f"history must be a sequence of item ids, got the string {history!r}")
        known = [self._index_of[item_id] for item_id in history if item_id in self._index_of]
        if not known:
            raise DataError(
                f"none of the {len(history)} items of the history is known to the model, "
                f"e.g. {list(history[:3])}; recommend popular items to such a user instead"
            )
        if len(known) < len(history):
            unknown = [item_id for item_id in history if item_id not in self._index_of]
            logger.warning(
                "%d of %d items of the history are unknown to the model and are left out, e.g. %s",
                len(unknown),
                len(history),
                unknown[:3],
            )
        histories = Histories(
            pl.Series("user_id", ["user"]),
            np.array([0, len(known)], dtype=np.int64),
            np.array(known, dtype=np.int32),
        )
        indices, scores = recommend(self.scorer, histories, k, remove_seen=remove_seen)
        found = indices[0] > 0
        return pl.DataFrame(
            {
                "item_id": self._item_ids.gather(indices[0][found].astype(np.int64) - 1),
                "rank": pl.Series(range(1, int(found.sum()) + 1), dtype=pl.Int32),
                "score": scores[0][found],
            }
        )
