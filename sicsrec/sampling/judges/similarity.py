"""A judge without a language model: it compares text vectors by their cosine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer

from sicsrec.cluster import Cluster, check_seen
from sicsrec.config.judges import SimilarityJudgeConfig
from sicsrec.data.catalog import ItemCatalog
from sicsrec.errors import DataError
from sicsrec.sampling.protocol import Answer, Question, Unreadable

_NGRAM_RANGE = (2, 4)
_MAX_FEATURES = 200_000
_QUESTIONS_PER_CALL = 512


@dataclass(frozen=True)
class TextVectors:
    """One unit vector per item that has a text."""

    row_of: Mapping[str, int]
    """Row of every item id."""
    matrix: csr_array | NDArray[np.float32]
    """[rows, D], sparse or dense; a row is 0 when the text gives no vector."""

    def cosines(self, anchor_id: str, other_ids: Sequence[str]) -> NDArray[np.float64]:
        """Return the cosine of one item with others, [n]; NaN where one of them has no vector."""
        anchor = self.row_of[anchor_id]
        others = [self.row_of[item_id] for item_id in other_ids]
        cosines = _dense(self.matrix[others] @ self.matrix[[anchor]].T)
        return np.where(self._has_vector[others] & self._has_vector[anchor], cosines, np.nan)

    @cached_property
    def _has_vector(self) -> NDArray[np.bool_]:
        return _dense(abs(self.matrix).sum(axis=1)) > 0


def _dense(product: csr_array | NDArray[Any]) -> NDArray[np.float64]:
    dense = product.toarray() if isinstance(product, csr_array) else product
    return np.asarray(dense, dtype=np.float64).reshape(-1)


def tfidf_vectors(catalog: ItemCatalog) -> TextVectors:
    """Return TF-IDF vectors of the character 2-4-grams inside words of all texts.

    Character n-grams need no word segmentation, so Chinese and English are treated alike. Single
    letters are left out: every English text has most of them, so all would look similar.

    Raises:
        DataError: if no item has a text.
    """
    known = [
        (item_id, text)
        for item_id, text in zip(catalog.item_ids, catalog.texts, strict=True)
        if text is not None
    ]
    if not known:
        raise DataError(
            "no item has a text, so there is nothing to compare; check ingest.text_fields, or take "
            "the judge co_occurrence, which reads no text"
        )
    vectorizer = TfidfVectorizer(
        analyzer="char_wb",
        ngram_range=_NGRAM_RANGE,
        sublinear_tf=True,
        max_features=_MAX_FEATURES,
        dtype=np.float32,
    )
    matrix = csr_array(vectorizer.fit_transform([text for _, text in known]))
    return TextVectors({item_id: row for row, (item_id, _) in enumerate(known)}, matrix)


class SimilarityJudge:
    """Names the nearest candidate and the least similar ones.

    Args:
        vectors: text vectors of all items that may occur.
        min_positive: cosine from which the nearest candidate counts as similar.
        max_negative: cosine up to which a candidate with a vector counts as unrelated; below
            ``min_positive``.
        n_negatives: most unrelated candidates to name, least similar first.
    """

    name = "similarity"

    def __init__(
        self, vectors: TextVectors, min_positive: float, max_negative: float, n_negatives: int
    ) -> None:
        self._vectors = vectors
        self._min_positive = min_positive
        self._max_negative = max_negative
        self._n_negatives = n_negatives

    def answer(self, questions: Sequence[Question]) -> list[Answer | Unreadable]:
        """See :meth:`sicsrec.sampling.protocol.Judge.answer`; ties go to the earlier candidate."""
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Answer:
        candidates = question.candidates
        # A text that gives no vector says nothing: it is neither similar nor unrelated.
        cosines = self._vectors.cosines(
            question.anchor_id, [candidate.item_id for candidate in candidates]
        )
        nearest = int(np.argmax(np.nan_to_num(cosines, nan=-np.inf)))
        positive = candidates[nearest].number if cosines[nearest] >= self._min_positive else None
        unrelated = [
            candidates[row].number
            for row in np.argsort(cosines, kind="stable")
            if cosines[row] <= self._max_negative
        ]
        return Answer(positive, tuple(unrelated[: self._n_negatives]))


@dataclass(frozen=True)
class SimilaritySource:
    """All that another process needs to be a :class:`SimilarityJudge` by TF-IDF vectors."""

    config: str
    """The judge's configuration as JSON."""
    n_negatives: int
    catalog: Path


class SpreadSimilarityJudge:
    """A :class:`SimilarityJudge` in every worker of a cluster.

    Args:
        source: what each is made of.
        cluster: who answers.
    """

    name = SimilarityJudge.name

    def __init__(self, source: SimilaritySource, cluster: Cluster) -> None:
        self._source = source
        self._cluster = cluster

    def answer(self, questions: Sequence[Question]) -> list[Answer | Unreadable]:
        """See :meth:`SimilarityJudge.answer`; worth while for many questions at a time."""
        starts = range(0, len(questions), _QUESTIONS_PER_CALL)
        parts = [tuple(questions[start : start + _QUESTIONS_PER_CALL]) for start in starts]
        call = partial(answer_by_similarity, self._source)
        answers = dict(self._cluster.spread(call, iter(parts)))
        return [answer for part in parts for answer in answers[part]]


def answer_by_similarity(
    source: SimilaritySource, questions: Sequence[Question]
) -> list[Answer | Unreadable]:
    """Answer some questions; what a worker is asked to do."""
    return _judge_of(source).answer(questions)


@lru_cache(maxsize=1)
def _judge_of(source: SimilaritySource) -> SimilarityJudge:
    check_seen(source.catalog)
    vectors = tfidf_vectors(ItemCatalog.read(source.catalog))
    config = SimilarityJudgeConfig.model_validate_json(source.config)
    return build_similarity_judge(config, source.n_negatives, vectors)


def build_similarity_judge(
    config: SimilarityJudgeConfig, n_negatives: int, vectors: TextVectors
) -> SimilarityJudge:
    """Make the judge its configuration describes."""
    return SimilarityJudge(vectors, config.min_positive, config.max_negative, n_negatives)
