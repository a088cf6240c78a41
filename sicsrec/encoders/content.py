"""What encoders read, by item index: the texts and the covers of a catalogue."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.covers import CoverStore
from sicsrec.encoders.base import Modality
from sicsrec.errors import DataError


class ItemContent(ABC):
    """One modality of all items that have it."""

    modality: Modality
    indices: NDArray[np.int32]
    """Ascending indices of the items that have the modality."""

    @abstractmethod
    def get(self, indices: NDArray[np.integer]) -> Sequence[str] | Sequence[Image.Image]:
        """Return the texts or RGB covers of some items, in the order asked for.

        Raises:
            DataError: if an item does not have the modality.
        """

    @abstractmethod
    def groups(self) -> NDArray[np.int64]:
        """Return a number for each of :attr:`indices`, equal where the content is the same."""

    def reading_order(self) -> NDArray[np.int32]:
        """Return :attr:`indices` in the order in which encoding them is cheapest."""
        return self.indices


class TextContent(ItemContent):
    """The texts of a catalogue.

    Args:
        catalog: all items.
    """

    modality = "text"

    def __init__(self, catalog: ItemCatalog) -> None:
        self._texts = catalog.texts
        rows = [row for row, text in enumerate(self._texts) if text is not None]
        self.indices = np.array(rows, dtype=np.int32) + 1

    def get(self, indices: NDArray[np.integer]) -> list[str]:
        """See :meth:`ItemContent.get`."""
        texts = [self._texts[int(index) - 1] for index in indices]
        found = [text for text in texts if text is not None]
        if len(found) != len(texts):
            raise DataError(f"{len(texts) - len(found)} of the items asked for have no text")
        return found

    def groups(self) -> NDArray[np.int64]:
        """See :meth:`ItemContent.groups`; case and space do not count."""
        plain = [" ".join((self._texts[i - 1] or "").split()).casefold() for i in self.indices]
        return _number_equal(plain)

    def reading_order(self) -> NDArray[np.int32]:
        """Return the items by length of text: a batch is padded to its longest."""
        lengths = [len(self._texts[index - 1] or "") for index in self.indices]
        return self.indices[np.argsort(lengths, kind="stable")]


class ImageContent(ItemContent):
    """The usable covers of a catalogue.

    Args:
        catalog: all items.
        covers: their covers.

    Raises:
        DataError: if an item's cover is called usable and is not there.
    """

    modality = "image"

    def __init__(self, catalog: ItemCatalog, covers: CoverStore) -> None:
        self._covers = covers
        self._ids = catalog.item_ids.to_list()
        usable = catalog.frame["image_status"] == "ok"
        self.indices = np.flatnonzero(usable.to_numpy()).astype(np.int32) + 1
        lost = [
            item_id for index in self.indices if (item_id := self._ids[index - 1]) not in covers
        ]
        if lost:
            raise DataError(
                f"{len(lost)} items have image_status ok but no stored cover, e.g. {lost[:3]}; "
                "run the ingest step again"
            )

    def get(self, indices: NDArray[np.integer]) -> list[Image.Image]:
        """See :meth:`ItemContent.get`."""
        return self._covers.read([self._ids[int(index) - 1] for index in indices])

    def groups(self) -> NDArray[np.int64]:
        """See :meth:`ItemContent.groups`; covers are the same when their files are."""
        digests = self._covers.read_digests()
        return _number_equal([digests[self._ids[index - 1]] for index in self.indices])


def _number_equal(values: Sequence[str]) -> NDArray[np.int64]:
    numbers: dict[str, int] = {}
    rows = [numbers.setdefault(value, len(numbers)) for value in values]
    return np.array(rows, dtype=np.int64)


def open_content(modality: Modality, catalog: ItemCatalog, covers_folder: Path) -> ItemContent:
    """Return the texts or the covers of a catalogue; covers are opened only when asked for.

    Raises:
        DataError: if an item's cover is called usable and is not there.
    """
    if modality == "text":
        return TextContent(catalog)
    return ImageContent(catalog, CoverStore(covers_folder))
