import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicsrec.errors import DataError
from sicsrec.sampling import questions as module
from sicsrec.sampling.questions import QuestionSource
from tests.unit.stage_one import make_catalog, make_log

HISTORIES = {
    "u1": ["i0", "i1", "i2"],
    "u2": ["i0", "i1", "i7"],
    "u3": ["i1", "i0", "i0", "i4"],
    "u4": ["i7"],
    "u5": ["i5"],
    "u6": ["i4", "i7"],
}


def ask(choice, n_candidates=20, histories=HISTORIES, seed=1):
    source = QuestionSource(make_log(histories), make_catalog(), choice, n_candidates, seed)
    asked = [(q.anchor_id, [c.item_id for c in q.candidates]) for q in source]
    return asked, dict(source.skipped), source.n_anchors


def test_per_item_candidates_share_most_histories_first():
    asked, skipped, n_anchors = ask("per_item")
    by_anchor = dict(asked)
    # i0 shares three histories with i1 (its double in u3 counts once), one with i2 and i4.
    assert by_anchor["i0"][0] == "i1"
    assert set(by_anchor["i0"]) == {"i1", "i2", "i4"}
    assert skipped == {"anchor_without_text": 1, "no_candidates": 1}
    assert n_anchors == len(asked) + 2
    assert [anchor for anchor, _ in asked] == sorted(by_anchor)


def test_per_user_asks_about_the_last_training_item():
    asked, skipped, n_anchors = ask("per_user")
    # u1: most recent first; u3: doubles once; u2, u4 and u6 end at an item without text.
    assert asked == [("i2", ["i1", "i0"]), ("i4", ["i0", "i1"])]
    assert skipped == {"anchor_without_text": 3, "no_candidates": 1}
    assert n_anchors == 6


def test_questions_are_cut_to_the_best_candidates():
    assert dict(ask("per_item", n_candidates=1)[0])["i0"] == ["i1"]
    assert dict(ask("per_user", n_candidates=1)[0])["i2"] == ["i1"]


def test_ties_follow_the_seed():
    histories = {"u1": [f"i{n}" for n in (0, 1, 2, 3, 4, 5, 6)]}
    orders = {tuple(dict(ask("per_item", histories=histories, seed=s)[0])["i0"]) for s in range(5)}
    assert len(orders) > 1
    assert ask("per_item", histories=histories, seed=3) == ask(
        "per_item", histories=histories, seed=3
    )


def test_ties_are_drawn_anew_for_every_anchor():
    """With one order for all, the first of it would be the first candidate of nearly all."""
    histories = {"u1": [f"i{n}" for n in (0, 1, 2, 3, 4, 5, 6)]}
    firsts = {candidates[0] for _, candidates in ask("per_item", histories=histories)[0]}
    assert len(firsts) > 2


def test_a_history_is_shared_once_however_often_it_holds_an_item():
    histories = {"u1": ["i0", "i1", "i1", "i0", "i1"], "u2": ["i0", "i2"], "u3": ["i0", "i2"]}
    assert dict(ask("per_item", histories=histories)[0])["i0"] == ["i2", "i1"]


def test_blocks_do_not_change_the_questions(monkeypatch):
    whole = ask("per_item")
    monkeypatch.setattr(module, "_BLOCK_ENTRIES", 1)
    assert ask("per_item") == whole


def test_items_outside_the_catalogue_are_an_error():
    with pytest.raises(DataError, match="not in the catalogue"):
        ask("per_item", histories={"u": ["i0", "nobody"]})


@settings(max_examples=30)
@given(
    st.lists(
        st.lists(st.sampled_from([f"i{n}" for n in range(10)]), min_size=1, max_size=8),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["per_item", "per_user"]),
)
def test_candidates_come_from_training_histories_of_the_anchor(histories, choice):
    log = {f"u{row}": items for row, items in enumerate(histories)}
    for anchor, candidates in ask(choice, n_candidates=3, histories=log)[0]:
        assert anchor not in candidates
        assert len(set(candidates)) == len(candidates) <= 3
        assert "i7" not in [anchor, *candidates]  # it has no text
        shared = set().union(*(set(items) for items in histories if anchor in items))
        assert set(candidates) <= shared


def test_an_empty_log_asks_nothing():
    log = make_log({"u": ["i0"]})
    empty = type(log)(log.interactions.filter(pl.lit(value=False)))
    source = QuestionSource(empty, make_catalog(), "per_item", 5, 0)
    assert list(source) == []
    assert source.n_anchors == 0
