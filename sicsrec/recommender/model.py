"""Loads a model folder and recommends."""

import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from sicsrec.cores import keep_torch_to_usable_cores
from sicsrec.data.given_tables import Table, as_table, is_table
from sicsrec.data.ids import composed_ids, text_id, text_id_column, text_ids, text_ids_in_order
from sicsrec.data.sequences import Histories, offsets_of
from sicsrec.errors import ArtifactError, ConfigError, DataError
from sicsrec.evaluation.ranking import Scorer, recommend
from sicsrec.models.base import SequenceModel
from sicsrec.models.blend import Blend
from sicsrec.models.blend_storage import load_blend
from sicsrec.models.new_items import (
    BlendWithNewItems,
    ContentScorer,
    NewItemVectors,
    content_of_new_items,
)
from sicsrec.models.sicsrec import SICSRec
from sicsrec.models.storage import load_model
from sicsrec.paths import check_utf8
from sicsrec.recommender.encoders import ENCODERS_FOLDER, Cover, ItemEncoders
from sicsrec.recommender.tables import recommendation_table

logger = logging.getLogger(__name__)

ITEMS_FILE = "items.parquet"
"""Columns item_id (string), item_index (int32, 1..N) and title (string, may be null)."""
CARD_FILE = "model_card.json"
ID_ENCODER_FOLDER = "id_encoder"
BLEND_FOLDER = "blend"
CHUNK_USERS = 8192
"""Users whose histories, recommendations and vectors are held at once; a row group of files."""

Id = str | int
"""An id as it may be given; inside and in results, ids are strings."""
HistoriesById = (
    Mapping[str, Sequence[Id]]
    | Mapping[int, Sequence[Id]]
    | Mapping[Id, Sequence[Id]]
    | Iterable[tuple[Id, Sequence[Id]]]
)
"""User id to item ids in time order, oldest first; a generator of pairs is read as it goes."""


_HISTORIES = "a mapping or pairs of a user id and item ids, or a table with user_id and item_id"


class Recommender:
    """Recommends items that go well after a history of item ids.

    Ids may be given as strings or as whole numbers; results hold strings.

    Args:
        model: a trained model, which is trained no further.
        items: columns item_id and item_index, which must count 1..N; optionally title.
        scorer: what ranks in place of the model alone, e.g. a blend.
        encoders: encode new items; None: new items cannot be encoded.
        folder: where it was loaded from.

    Raises:
        ArtifactError: if the items are not those of the model.
    """

    def __init__(
        self,
        model: SequenceModel,
        items: pl.DataFrame,
        scorer: Scorer | None = None,
        encoders: ItemEncoders | None = None,
        folder: Path | None = None,
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
        self.scorer: Scorer = model.fixed() if scorer is None else scorer
        self.folder = folder
        self._encoders = encoders
        # As ids that are asked for are, whatever form the folder has them in.
        self._item_ids = composed_ids(items["item_id"].cast(pl.String))
        self._titles = items["title"] if "title" in items.columns else None
        self._index_of = {item_id: row + 1 for row, item_id in enumerate(self._item_ids)}
        if len(self._index_of) != items.height:
            raise ArtifactError(f"{ITEMS_FILE}: some item ids occur more than once")

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: str = "cpu") -> "Recommender":
        """Read a model folder. Encoders are read when a new item is encoded.

        From then on torch computes in no more threads than there are cores that this process may
        use.

        Args:
            folder: the folder.
            device: torch device the model runs on.

        Raises:
            ArtifactError: if a file is missing or damaged, or the files do not belong together.
            ConfigError: if there is no such device, or the path is not in UTF-8.
        """
        path = Path(folder)
        _check_device(device)
        check_utf8(str(path.absolute()), "the model folder")
        if not (path / ITEMS_FILE).is_file():
            raise ArtifactError(
                f"{path} has no {ITEMS_FILE}; expected a folder that the export step wrote"
            )
        _check_whole(path)
        keep_torch_to_usable_cores()
        model = load_model(path, device)
        scorer: Scorer | None = None
        if (path / BLEND_FOLDER).is_dir():
            id_encoder = load_model(path / ID_ENCODER_FOLDER, device)
            scorer = load_blend(path / BLEND_FOLDER, [id_encoder, model])
        encoders = path / ENCODERS_FOLDER
        return cls(
            model,
            _read_items(path / ITEMS_FILE),
            scorer,
            ItemEncoders.open(encoders, device) if encoders.is_dir() else None,
            path,
        )

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Copy the model folder it was loaded from and return the copy.

        Raises:
            ArtifactError: if it was not loaded from a folder, or ``folder`` exists.
        """
        target = Path(folder)
        if self.folder is None:
            raise ArtifactError("this recommender was not loaded from a folder")
        if target.exists():
            raise ArtifactError(f"{target} exists already; give a new folder")
        # Renamed when it is whole: a part of a folder may pass for another model's.
        copied = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            shutil.copytree(self.folder, copied, copy_function=shutil.copyfile)
            copied.rename(target)
        except OSError:
            shutil.rmtree(copied, ignore_errors=True)
            raise
        return target

    @property
    def item_ids(self) -> list[str]:
        """Ids of all items that can be recommended, in the order of their index."""
        return self._item_ids.to_list()

    @property
    def ranks_by(self) -> str:
        """What the scores of recommendations are: ``blend`` or the kind of the model."""
        return "blend" if isinstance(self.scorer, Blend) else self.model.kind

    def title_of(self, item_id: Id) -> str:
        """Return an item's title; empty where there is none or the item is not known."""
        index = self._index_of.get(text_id(item_id))
        return "" if index is None or self._titles is None else str(self._titles[index - 1] or "")

    def knows(self, item_id: Id) -> bool:
        """Whether the model was trained with this item."""
        return text_id(item_id) in self._index_of

    def indices_of(self, item_ids: Sequence[Id]) -> NDArray[np.int32]:
        """Return the index of every item.

        Raises:
            DataError: if one is not known.
        """
        ids = text_ids(item_ids, "items")
        unknown = [item_id for item_id in ids if item_id not in self._index_of]
        if unknown:
            raise DataError(f"the model does not know the items {unknown[:3]}")
        return self._known(ids)

    def recommend(
        self,
        history: Sequence[Id],
        k: int = 10,
        *,
        remove_seen: bool = True,
        only: Sequence[Id] | None = None,
        new: NewItemVectors | None = None,
    ) -> pl.DataFrame:
        """Return the k best next items after a history.

        Ids that the model does not know, such as items newer than the model, are left out of the
        history with a logged warning.

        Args:
            history: item ids in time order, oldest first. The models read the most recent
                ``model.max_history_length`` known ones, a blend's own features and
                ``remove_seen`` all of them.
            k: most items to return.
            remove_seen: leave out the items of the history.
            only: ids of the items that may be recommended, new ones included; None: all.
            new: items that came after training, ranked among the others by their content; see
                :mod:`sicsrec.models.new_items` for what the scores mean then.

        Returns:
            Columns item_id, rank (from 1) and score, best first; fewer than k rows when fewer
            items are left.

        Raises:
            DataError: if the history is a single string or has no order; if it holds no item the
                model knows: such a history says nothing about the user; if an id is neither a
                string nor a whole number; if ``only`` holds an id of neither kind; or if a new
                item has the id of a known one, or k is no whole number from 1 on.
        """
        require_at_least_one(k, "k")
        ids = text_ids_in_order(history, "history")
        known = self._known(ids)
        if not len(known):
            raise DataError(
                f"none of the {len(ids)} items of the history is known to the model, "
                f"e.g. {ids[:3]}; recommend popular items to such a user instead"
            )
        if len(known) < len(ids):
            unknown = [item_id for item_id in ids if item_id not in self._index_of]
            logger.warning(
                "%d of %d items of the history are unknown to the model and are left out, e.g. %s",
                len(unknown),
                len(ids),
                unknown[:3],
            )
        found = self._recommend(_histories([("user", known)]), k, remove_seen, only, new)
        return found.select("item_id", "rank", "score")

    def recommend_many(
        self,
        histories: HistoriesById | Table,
        k: int = 10,
        *,
        remove_seen: bool = True,
        only: Sequence[Id] | None = None,
        new: NewItemVectors | None = None,
        chunk_users: int = CHUNK_USERS,
    ) -> Iterator[pl.DataFrame]:
        """Yield recommendations for many users, ``chunk_users`` at a time.

        Memory holds one chunk, however many users there are, when ``histories`` is a generator.

        Args:
            histories: user id to item ids in time order, each user once; or a table with the
                columns user_id and item_id, every user's rows in time order, of polars, pandas or
                another library that speaks Arrow. Of a generator only users of the same chunk are
                compared, as memory holds no others.
            k: most items per user.
            remove_seen: see :meth:`recommend`.
            only: see :meth:`recommend`.
            new: see :meth:`recommend`.
            chunk_users: users per table.

        Yields:
            Columns user_id, rank, item_id and score. Users whose history holds no known item have
            no rows; how many there were is logged.

        Raises:
            DataError: see :meth:`recommend`; or if a user comes twice, the table lacks a column, or
                ``chunk_users`` is no whole number from 1 on.
        """
        require_at_least_one(k, "k")
        require_at_least_one(chunk_users, "chunk_users")
        n_without = 0
        pairs, seen = _pairs(histories), set[str]()
        while chunk := list(islice(pairs, chunk_users)):
            if not isinstance(histories, Sized):
                seen.clear()
            _check_once(chunk, seen)
            known = [(user_id, self._known(history)) for user_id, history in chunk]
            some = [(user_id, items) for user_id, items in known if len(items)]
            n_without += len(known) - len(some)
            if some:
                yield self._recommend(_histories(some), k, remove_seen, only, new)
        if n_without:
            logger.warning(
                "%d users have no item in their history that the model knows, and so no "
                "recommendations; show them popular items",
                n_without,
            )

    def _recommend(
        self,
        histories: Histories,
        k: int,
        remove_seen: bool,
        only: Sequence[Id] | None,
        new: NewItemVectors | None,
    ) -> pl.DataFrame:
        scorer = self.scorer if new is None else self.scorer_with(new)
        ids = self._item_ids
        if new is not None:
            ids = pl.concat([ids, pl.Series(ids.name, new.item_ids, dtype=pl.String)])
        indices, scores = recommend(
            scorer, histories, k, remove_seen=remove_seen, only=self._mask(ids, only)
        )
        return recommendation_table(histories.user_ids, ids, indices, scores)

    def _mask(self, ids: pl.Series, only: Sequence[Id] | None) -> NDArray[np.bool_] | None:
        if only is None:
            return None
        wanted = set(text_ids(only, "only"))
        unknown = wanted - set(ids)
        if unknown or not wanted:
            raise DataError(
                f"only names {len(unknown)} items that the model does not know, e.g. "
                f"{sorted(unknown)[:3]}"
                if unknown
                else "only is empty, so nothing may be recommended"
            )
        return ids.is_in(list(wanted)).to_numpy()

    def _known(self, history: Sequence[str]) -> NDArray[np.int32]:
        index_of = self._index_of
        return np.array([index_of[i] for i in history if i in index_of], dtype=np.int32)

    def histories(self, histories: HistoriesById | Table) -> Histories:
        """Return histories as the models read them, without unknown items.

        Args:
            histories: see :meth:`recommend_many`.

        Raises:
            DataError: if a history is a single string, an id is neither a string nor a whole
                number, a user comes twice, or the table lacks a column.
        """
        pairs = list(_pairs(histories))
        _check_once(pairs, set())
        return _histories([(user, self._known(history)) for user, history in pairs])

    # ------------------------------------------------------------------ new items and neighbours

    def encode(
        self,
        item_ids: Sequence[Id],
        texts: Sequence[str | None] | None = None,
        covers: Sequence[Cover | None] | None = None,
    ) -> NewItemVectors:
        """Encode new items with the encoders of the model folder.

        Args:
            item_ids: [M]; names for the items.
            texts: [M]; what the configured text fields would hold; None where there is none.
            covers: [M]; files, bytes or images; None where there is none.

        Raises:
            DataError: if the folder holds no encoders, or see :meth:`ItemEncoders.encode`.
        """
        if self._encoders is None:
            raise DataError(
                "this model folder holds no encoders: it was exported with export.encoders: false, "
                "or its vectors were given; give vectors of your own as NewItemVectors, of unit "
                "length unless encode_items.normalise was false"
            )
        return self._encoders.encode(item_ids, texts, covers)

    def scorer_with(self, new: NewItemVectors) -> BlendWithNewItems | ContentScorer:
        """Return what scores known items and, in the columns after them, new ones.

        Raises:
            DataError: if a new item has the id of a known one, or has nothing the model reads.
        """
        doubled = [item_id for item_id in new.item_ids if item_id in self._index_of]
        if doubled:
            raise DataError(f"new items {doubled[:3]} have ids that the model knows already")
        if isinstance(self.scorer, Blend):
            return BlendWithNewItems(self.scorer, new)
        return ContentScorer(self.model, new)

    def neighbours(self, item_id: Id, k: int = 10, by: str | None = None) -> pl.DataFrame:
        """Return the items nearest to one, by the cosine of their vectors.

        Args:
            item_id: a known item.
            k: most items to return.
            by: ``content``: the fused content embedding c; ``id``: the item embedding; ``text`` or
                ``image``: that modality's vectors. None: content where the model has it, else id.

        Returns:
            Columns item_id, rank and similarity, nearest first, without the item itself and items
            that have no such vector.

        Raises:
            DataError: if the item is unknown or has no such vector, the model has no such vectors,
                or k is below 1.
        """
        require_at_least_one(k, "k")
        row = self._index_of.get(text_id(item_id), 0) - 1
        if row < 0:
            raise DataError(f"the model does not know the item {item_id!r}")
        vectors = self.unit_vectors(by)
        has_vector = vectors.any(dim=1)
        if not has_vector[row]:
            name = by or ("content" if isinstance(self.model, SICSRec) else "id")
            raise DataError(
                f"the item {item_id!r} has no vector by {name}, so nothing is near it; "
                "give another item or another by"
            )
        similarities = vectors @ vectors[row]
        has_vector[row] = False
        similarities[~has_vector] = -torch.inf
        return self._nearest(similarities, min(k, int(has_vector.sum())))

    def neighbours_of_new(self, new: NewItemVectors, k: int = 10) -> pl.DataFrame:
        """Return the known items nearest to new ones, by the cosine of content embeddings c.

        Returns:
            Columns new_item_id, item_id, rank and similarity, by new item, nearest first.

        Raises:
            DataError: if the model has no content side or k is below 1; see :meth:`scorer_with`.
        """
        require_at_least_one(k, "k")
        _, content = content_of_new_items(self.model, new)
        known = self.unit_vectors("content")
        has_content = known.any(dim=1)
        similarities = (content @ known.T).masked_fill(~has_content, -torch.inf)
        k = min(k, int(has_content.sum()))
        return pl.concat(
            self._nearest(row, k).select(pl.lit(name).alias("new_item_id"), pl.all())
            for name, row in zip(new.item_ids, similarities, strict=True)
        )

    @torch.no_grad()
    def unit_vectors(self, by: str | None = None) -> torch.Tensor:
        """Return one vector of unit length per item, [N, D]; see :meth:`neighbours`.

        An item without the modality, or by content one without any, has a vector of zeros.

        Raises:
            DataError: if the model has no such vectors.
        """
        model = self.model
        makers: dict[str, Any] = {"id": lambda: _id_table(model)}
        if isinstance(model, SICSRec):
            content = model.content_embedding
            # All that have nothing share one c, made of placeholders: it says nothing of them.
            makers = {
                "content": lambda: content.of_all() * content.has_any()[:, None],
                **makers,
            }
            for modality, adapter in content.adapters.items():
                makers[modality] = lambda a=adapter: a.table.weight[1:] * a.present[1:, None]
        name = by or next(iter(makers))
        if name not in makers:
            raise DataError(f"there are no vectors by {name!r}; by one of {', '.join(makers)}")
        return F.normalize(makers[name](), dim=-1)

    def _nearest(self, similarities: torch.Tensor, k: int) -> pl.DataFrame:
        values, rows = torch.topk(similarities, k)
        return pl.DataFrame(
            {
                "item_id": self._item_ids.gather(rows.cpu().numpy()),
                "rank": pl.Series(range(1, k + 1), dtype=pl.Int32),
                "similarity": values.cpu().numpy(),
            }
        )


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as err:
        # What a build without the device says goes on for pages.
        why = str(err).partition("\n")[0]
        raise ConfigError(
            f"device {device!r} cannot be used, give e.g. cpu or cuda: {why}"
        ) from err


def _check_whole(folder: Path) -> None:
    """Refuse a folder that lacks what its card names: without its blend it would rank by another
    model and say nothing. A folder may lack the card.
    """
    try:
        card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as err:
        raise ArtifactError(f"{folder / CARD_FILE} cannot be read: {err}") from err
    named = card.get("files") if isinstance(card, dict) else None
    missing = [name for name in named or () if not (folder / Path(name).name).exists()]
    if missing:
        raise ArtifactError(
            f"{folder} lacks {', '.join(missing)}, which its {CARD_FILE} names; copy the whole "
            "folder that the export step wrote"
        )


def _read_items(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError) as err:
        raise ArtifactError(f"{path} is no readable table of items: {err}") from err


def require_at_least_one(number: object, name: str) -> None:
    """Refuse what is no whole number from 1 on.

    Args:
        number: what was given.
        name: its name in messages.

    Raises:
        DataError: if it is something else.
    """
    if not isinstance(number, int | np.integer) or isinstance(number, bool):
        raise DataError(f"{name} must be a whole number, got {number!r}")
    if number < 1:
        raise DataError(f"{name} must be at least 1, got {number}")


def _id_table(model: SequenceModel) -> torch.Tensor:
    return model.id_encoder.item_vectors() if isinstance(model, SICSRec) else model.item_vectors()


def _pairs(histories: HistoriesById | Table) -> Iterator[tuple[str, Sequence[str]]]:
    if is_table(histories):
        histories = as_table(histories, "histories")
        missing = {"user_id", "item_id"} - set(histories.columns)
        if missing:
            raise DataError(f"the table of histories lacks the columns {sorted(missing)}")
        table = histories.select(
            text_id_column(histories["user_id"]), text_id_column(histories["item_id"])
        )
        grouped = table.group_by("user_id", maintain_order=True).agg("item_id")
        yield from zip(grouped["user_id"], grouped["item_id"].to_list(), strict=True)
        return
    if isinstance(histories, str) or not isinstance(histories, Iterable):
        raise DataError(f"histories must be {_HISTORIES}; found {type(histories).__name__}")
    for pair in histories.items() if isinstance(histories, Mapping) else histories:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise DataError(f"histories must be {_HISTORIES}; among them is {pair!r}")
        user, history = pair
        user_id = text_id(user)
        yield user_id, text_ids_in_order(history, f"the history of user {user_id!r}")


def _check_once(pairs: Sequence[tuple[str, Sequence[str]]], seen: set[str]) -> None:
    """Refuse a second history of a user, and add the users to those seen.

    Raises:
        DataError: naming the user.
    """
    for user_id, _ in pairs:
        if user_id in seen:
            raise DataError(
                f"histories hold the user {user_id!r} more than once; give one history per user, "
                "or a table, in which all rows of a user are one history"
            )
        seen.add(user_id)


def _histories(known: Sequence[tuple[str, NDArray[np.int32]]]) -> Histories:
    lengths = np.array([len(items) for _, items in known], dtype=np.int64)
    return Histories(
        pl.Series("user_id", [user_id for user_id, _ in known], dtype=pl.String),
        offsets_of(lengths),
        np.concatenate([np.zeros(0, dtype=np.int32), *(items for _, items in known)]),
    )
