"""Judges that read no text: what pairs are worth is measured against theirs."""

import hashlib
from collections.abc import Sequence

import numpy as np

from sicsrec.config.judges import CoOccurrenceJudgeConfig, RandomJudgeConfig
from sicsrec.sampling.protocol import Answer, Question


class CoOccurrenceJudge:
    """Names the candidate that shares most training histories with the anchor.

    It counts nothing itself: a :class:`~sicsrec.sampling.questions.QuestionSource` with one
    question per item lists the candidates in this order, ties in seeded order.

    Args:
        n_negatives: most unrelated candidates to name: those that share fewest histories, the
            fewest first.
    """

    name = "co_occurrence"

    def __init__(self, n_negatives: int) -> None:
        self._n_negatives = n_negatives

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """See :meth:`sicsrec.sampling.protocol.Judge.answer`."""
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Answer:
        first, *others = (candidate.number for candidate in question.candidates)
        return Answer(first, tuple(others[::-1][: self._n_negatives]))


class RandomJudge:
    """Draws the similar candidate and the unrelated ones.

    What it draws depends on the seed and the question alone, not on what was asked before.

    Args:
        seed: of the draws.
        n_negatives: most unrelated candidates to name.
    """

    name = "random"

    def __init__(self, seed: int, n_negatives: int) -> None:
        self._seed = seed
        self._n_negatives = n_negatives

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """See :meth:`sicsrec.sampling.protocol.Judge.answer`."""
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Answer:
        ids = [question.anchor_id, *(candidate.item_id for candidate in question.candidates)]
        digest = hashlib.sha256("\0".join(ids).encode()).digest()
        rng = np.random.default_rng([self._seed, int.from_bytes(digest[:8], "big")])
        numbers = [candidate.number for candidate in question.candidates]
        first, *others = (numbers[place] for place in rng.permutation(len(numbers)))
        return Answer(first, tuple(others[: self._n_negatives]))


def build_co_occurrence_judge(
    config: CoOccurrenceJudgeConfig,  # noqa: ARG001
    n_negatives: int,
    seed: int,  # noqa: ARG001
) -> CoOccurrenceJudge:
    """Make the judge; it has nothing to configure."""
    return CoOccurrenceJudge(n_negatives)


def build_random_judge(
    config: RandomJudgeConfig,  # noqa: ARG001
    n_negatives: int,
    seed: int,
) -> RandomJudge:
    """Make the judge; it has nothing to configure."""
    return RandomJudge(seed, n_negatives)
