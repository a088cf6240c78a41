import numpy as np
import pytest
from scipy.sparse import csr_array

from sicsrec.config.judges import SimilarityJudgeConfig
from sicsrec.errors import ConfigError, DataError
from sicsrec.sampling.judges import JUDGES
from sicsrec.sampling.judges.similarity import (
    SimilarityJudge,
    TextVectors,
    build_similarity_judge,
    tfidf_vectors,
)
from sicsrec.sampling.protocol import Answer, Candidate, Question
from tests.unit.stage_one import make_catalog


def question(anchor, *candidates):
    return Question(
        anchor, anchor, tuple(Candidate(n, item, item) for n, item in enumerate(candidates, 1))
    )


def plane(**angles):
    """Unit vectors at these angles in degrees."""
    radians = np.deg2rad(list(angles.values()))
    matrix = np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)
    return TextVectors({name: row for row, name in enumerate(angles)}, matrix)


VECTORS = plane(a=0, near=20, nearer=10, across=90, behind=180, side=80)


def test_nearest_is_positive_and_least_similar_come_first():
    judge = SimilarityJudge(VECTORS, min_positive=0.5, max_negative=0.2, n_negatives=3)
    asked = question("a", "side", "near", "behind", "nearer", "across")
    assert judge.answer([asked]) == [Answer(4, (3, 5, 1))]


def test_too_far_means_none_and_too_near_is_no_negative():
    judge = SimilarityJudge(VECTORS, min_positive=0.99, max_negative=-0.5, n_negatives=3)
    assert judge.answer([question("a", "near", "across")]) == [Answer(None, ())]
    assert SimilarityJudge(VECTORS, 0.5, 0.2, 0).answer([question("a", "across")]) == [
        Answer(None, ())
    ]


def test_thresholds_belong_to_those_who_reach_them():
    matrix = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    vectors = TextVectors({"a": 0, "same": 1, "across": 2}, matrix)
    judge = SimilarityJudge(vectors, min_positive=1.0, max_negative=0.0, n_negatives=3)
    assert judge.answer([question("a", "same", "across")]) == [Answer(1, (2,))]


@pytest.mark.parametrize("is_sparse", [False, True])
def test_a_text_without_a_vector_is_neither_similar_nor_unrelated(is_sparse):
    dense = np.array([[1, 0], [0, 0], [0, 1]], dtype=np.float32)
    vectors = TextVectors(
        {"a": 0, "wordless": 1, "across": 2}, csr_array(dense) if is_sparse else dense
    )
    judge = SimilarityJudge(vectors, min_positive=-0.5, max_negative=0.0, n_negatives=3)
    assert np.isnan(vectors.cosines("a", ["wordless", "across"])).tolist() == [True, False]
    assert judge.answer([question("a", "wordless", "across")]) == [Answer(2, (2,))]
    assert judge.answer([question("a", "wordless")]) == [Answer(None, ())]
    assert judge.answer([question("wordless", "a", "across")]) == [Answer(None, ())]


def test_answers_keep_the_order_of_the_questions():
    judge = SimilarityJudge(VECTORS, 0.5, 0.2, 1)
    asked = [question("a", "near"), question("across", "side"), question("behind", "a")]
    assert [answer.positive for answer in judge.answer(asked)] == [1, 1, None]
    assert judge.answer([]) == []


def test_tfidf_sees_chinese_and_english_alike():
    vectors = tfidf_vectors(
        make_catalog(["宫保鸡丁的做法", "宫保鸡丁", "red cat", "red cats", None, "！"])
    )
    assert vectors.cosines("i0", ["i1", "i2"])[0] > 0.3
    assert vectors.cosines("i0", ["i2"])[0] == pytest.approx(0.0, abs=1e-6)
    assert vectors.cosines("i2", ["i3", "i2"]) == pytest.approx(
        [vectors.cosines("i3", ["i2"])[0], 1.0]
    )
    assert "i4" not in vectors.row_of


def test_a_catalogue_without_texts_says_what_to_do():
    with pytest.raises(DataError, match="text_fields"):
        tfidf_vectors(make_catalog([None, None]))


def test_the_table_of_judges():
    assert JUDGES.names() == (
        "similarity",
        "co_occurrence",
        "random",
        "openai",
        "transformers",
    )
    assert JUDGES.get("similarity") is build_similarity_judge
    judge = build_similarity_judge(SimilarityJudgeConfig(), 2, VECTORS)
    assert judge.name == "similarity"
    with pytest.raises(ConfigError, match="similarity"):
        JUDGES.get("llm")
