"""Chooses anchors and candidates out of training histories, and out of nothing else.

The reference asks about every user's last item, which is the test target. Here both protocols
read a :class:`~sicsrec.data.split.TrainLog`, so held-out items cannot be anchors or candidates
because somebody watched them later.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.sequences import Histories
from sicsrec.data.split import TrainLog
from sicsrec.sampling.protocol import Candidate, Question

AnchorChoice = Literal["per_item", "per_user"]

_BLOCK_ENTRIES = 20_000_000
"""Most co-occurrence counts held at a time."""


class QuestionSource:
    """Makes all questions of a training log, in a fixed order.

    Args:
        log: the training interactions.
        catalog: all items.
        choice: ``per_item``: one question per item that occurs in training, candidates are the
            items that share most training histories with it (ties in seeded order). ``per_user``
            (the paper): one question per training history about its last item, candidates are the
            other items of that history, most recent first.
        n_candidates: most candidates in one question.
        seed: orders candidates that share equally many histories.
        needs_text: whether items without a text are left out; otherwise their text is empty.
    """

    def __init__(
        self,
        log: TrainLog,
        catalog: ItemCatalog,
        choice: AnchorChoice,
        n_candidates: int,
        seed: int,
        *,
        needs_text: bool = True,
    ) -> None:
        self._histories = Histories.from_interactions(log.interactions, catalog)
        self._ids = catalog.item_ids.to_list()
        texts = catalog.texts
        self._texts = texts if needs_text else [text or "" for text in texts]
        self._choice = choice
        self._n_candidates = n_candidates
        self._seed = seed
        self.skipped: Counter[str] = Counter()
        """Anchors about which nothing was asked, by reason; complete when the iteration ended."""

    @property
    def n_anchors(self) -> int:
        """Anchors considered: items that occur in training, or training histories."""
        if self._choice == "per_item":
            return len(np.unique(self._histories.items))
        return int((self._histories.lengths > 0).sum())

    def __iter__(self) -> Iterator[Question]:
        """Yield the questions: by item index, or by user id."""
        self.skipped = Counter()
        chosen = self._per_item() if self._choice == "per_item" else self._per_user()
        for anchor, candidates in chosen:
            text = self._texts[anchor - 1]
            if text is None:
                self.skipped["anchor_without_text"] += 1
            elif len(candidates) == 0:
                self.skipped["no_candidates"] += 1
            else:
                yield Question(self._ids[anchor - 1], text, self._number(candidates))

    def _number(self, items: NDArray[np.int32]) -> tuple[Candidate, ...]:
        rows = [int(item) - 1 for item in items]
        return tuple(
            Candidate(number, self._ids[row], text)
            for number, row in enumerate(rows, start=1)
            if (text := self._texts[row]) is not None
        )

    def _has_text(self) -> NDArray[np.bool_]:
        """Return for every index 0..N whether the item has a text."""
        return np.array([False, *(text is not None for text in self._texts)])

    def _per_user(self) -> Iterator[tuple[int, NDArray[np.int32]]]:
        has_text = self._has_text()
        for row in range(len(self._histories)):
            history = self._histories.of_user(row)
            if len(history) == 0:
                continue
            anchor = int(history[-1])
            recent = history[::-1]
            usable = recent[has_text[recent] & (recent != anchor)]
            _, first = np.unique(usable, return_index=True)
            yield anchor, usable[np.sort(first)][: self._n_candidates]

    def _per_item(self) -> Iterator[tuple[int, NDArray[np.int32]]]:
        occurrences = self._occurrences()
        has_text = self._has_text()
        candidates_only = occurrences.multiply(has_text[np.newaxis, :]).tocsr()
        candidates_only.eliminate_zeros()
        by_item = occurrences.T.tocsr()
        anchors = np.unique(self._histories.items)
        block = max(1, _BLOCK_ENTRIES // (occurrences.shape[1]))
        for start in range(0, len(anchors), block):
            some = anchors[start : start + block]
            counts = (by_item[some] @ candidates_only).tocsr()
            for row, anchor in enumerate(some):
                part = slice(counts.indptr[row], counts.indptr[row + 1])
                yield (
                    int(anchor),
                    self._most_frequent(int(anchor), counts.indices[part], counts.data[part]),
                )

    def _occurrences(self) -> csr_array:
        """Return the 0/1 matrix [users, N + 1] of who has which item in training."""
        histories = self._histories
        shape = (len(histories), len(self._ids) + 1)
        values = np.ones(len(histories.items), dtype=np.int32)
        matrix = csr_array((values, (histories.owners, histories.items)), shape=shape)
        matrix.sum_duplicates()
        matrix.data[:] = 1
        return matrix

    def _most_frequent(
        self, anchor: int, items: NDArray[np.integer], counts: NDArray[np.integer]
    ) -> NDArray[np.int32]:
        order = np.argsort(items)
        items, counts = items[order], counts[order]
        others = items != anchor
        items, counts = items[others], counts[others]
        # Ties are drawn anew for every anchor: with one fixed order a few lucky items would be
        # candidates everywhere in a sparse log, where most pairs share a single history.
        ties = np.random.default_rng([self._seed, anchor]).random(len(items))
        return items[np.lexsort((ties, -counts))][: self._n_candidates].astype(np.int32)
