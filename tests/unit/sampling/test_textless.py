import pytest

from sicsrec.config import SamplePairsConfig
from sicsrec.config.judges import CoOccurrenceJudgeConfig, RandomJudgeConfig
from sicsrec.sampling.answers import find_fault
from sicsrec.sampling.judges import JUDGES
from sicsrec.sampling.judges.textless import CoOccurrenceJudge, RandomJudge
from sicsrec.sampling.protocol import Answer, Candidate, Question
from sicsrec.sampling.questions import QuestionSource
from tests.unit.stage_one import make_catalog, make_log

HISTORIES = {
    "u1": ["i0", "i1", "i2"],
    "u2": ["i0", "i1", "i3"],
    "u3": ["i0", "i1", "i2"],
    "u4": ["i0", "i4"],
}


def question(anchor, *candidates):
    return Question(
        anchor, anchor, tuple(Candidate(n, item, item) for n, item in enumerate(candidates, 1))
    )


def test_most_shared_histories_make_the_positive_and_fewest_the_first_negative():
    source = QuestionSource(make_log(HISTORIES), make_catalog(), "per_item", 20, seed=1)
    asked = next(entry for entry in source if entry.anchor_id == "i0")
    # i0 shares three histories with i1, two with i2, one with i3 and one with i4.
    [answer] = CoOccurrenceJudge(n_negatives=3).answer([asked])
    ids = {candidate.number: candidate.item_id for candidate in asked.candidates}
    assert ids[answer.positive] == "i1"
    assert {ids[number] for number in answer.negatives[:2]} == {"i3", "i4"}
    assert ids[answer.negatives[2]] == "i2"


def test_co_occurrence_with_few_candidates_or_no_negatives():
    judge = CoOccurrenceJudge(n_negatives=3)
    assert judge.answer([question("a", "b"), question("a", "b", "c")]) == [
        Answer(1, ()),
        Answer(1, (2,)),
    ]
    assert CoOccurrenceJudge(0).answer([question("a", "b", "c")]) == [Answer(1, ())]


def test_random_answers_are_usable_and_depend_on_seed_and_question_alone():
    asked = [question(f"a{n}", *(f"c{m}" for m in range(n % 6 + 1))) for n in range(40)]
    answers = RandomJudge(7, n_negatives=2).answer(asked)
    assert all(find_fault(*pair) is None for pair in zip(asked, answers, strict=True))
    assert all(len(a.negatives) == min(2, n % 6) for n, a in enumerate(answers))
    assert RandomJudge(7, 2).answer(asked[::-1]) == answers[::-1]
    assert RandomJudge(8, 2).answer(asked) != answers


def test_random_draws_every_candidate_about_equally_often():
    asked = [question(f"a{n}", "b", "c", "d", "e") for n in range(400)]
    positives = [answer.positive for answer in RandomJudge(0, 1).answer(asked)]
    # 100 expected with a standard deviation of 8.7.
    assert all(60 < positives.count(number) < 140 for number in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("config", "made"),
    [(CoOccurrenceJudgeConfig(), CoOccurrenceJudge), (RandomJudgeConfig(), RandomJudge)],
)
def test_the_table_of_judges_makes_them_under_their_own_names(config, made):
    judge = JUDGES.get(config.kind)(config, 2, 5)
    assert isinstance(judge, made)
    assert judge.name == config.kind


def test_co_occurrence_refuses_questions_whose_candidates_come_by_time():
    with pytest.raises(ValueError, match="set anchors: per_item"):
        SamplePairsConfig.model_validate(
            {"judge": {"kind": "co_occurrence"}, "anchors": "per_user"}
        )
