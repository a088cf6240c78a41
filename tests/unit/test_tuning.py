"""Ranges and studies: what may be tried, what is proposed, what outlives the process."""

from pathlib import Path
from typing import Any

import pytest

from sicsrec.errors import ConfigError
from sicsrec.tuning.plots import plot_trials, trial_table
from sicsrec.tuning.ranges import parse_ranges
from sicsrec.tuning.study import Proposal, Study, best_of, open_study

RANGES = parse_ranges(
    {
        "pretrain_id.dropout": {"low": 0.1, "high": 0.7, "step": 0.1},
        "train_sicsrec.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "pretrain_id.width, train_sicsrec.width": {"low": 16, "high": 64, "step": 16},
        "train_sicsrec.modalities": [None, ["text"], ["text", "image"]],
    },
    "mine.yaml",
)
OWN = {
    "pretrain_id.dropout": 0.5,
    "train_sicsrec.learning_rate": 0.001,
    "pretrain_id.width": 32,
    "train_sicsrec.width": 32,
    "train_sicsrec.modalities": None,
}


def value_of(proposal: Proposal) -> float:
    return 1 - abs(proposal.values["pretrain_id.dropout"] - 0.2)


def carry_out(folder: Path, n_trials: int, own: dict[str, Any] = OWN) -> list[dict[str, Any]]:
    """Make the trials that are missing, and return the values of all."""
    with open_study(folder, "s", RANGES, seed=3) as study:
        while len(study.rows()) < n_trials:
            proposal = study.propose(own)
            study.tell(proposal, value_of(proposal))
        return [row.values for row in study.rows()]


def test_the_first_trial_has_the_own_values_and_all_lie_in_their_ranges(tmp_path: Path) -> None:
    values = carry_out(tmp_path, 4)
    assert values[0] == OWN
    for tried in values:
        assert tried["pretrain_id.dropout"] in {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}
        assert 1e-4 <= tried["train_sicsrec.learning_rate"] <= 1e-2
        assert tried["pretrain_id.width"] == tried["train_sicsrec.width"]
        assert tried["pretrain_id.width"] in {16, 32, 48, 64}
        assert isinstance(tried["pretrain_id.width"], int)
        assert tried["train_sicsrec.modalities"] in (None, ["text"], ["text", "image"])
    assert len({tried["train_sicsrec.learning_rate"] for tried in values}) == 4


@pytest.mark.parametrize(
    ("interval", "own", "is_whole"),
    [
        ({"low": 64, "high": 1024, "log": True}, 256, True),
        ({"low": 1, "high": 3}, 2, True),
        ({"low": 0, "high": 1}, 0.3, False),
        ({"low": 0, "high": 4}, None, True),
    ],
)
def test_numbers_are_whole_where_the_configuration_takes_no_others(
    tmp_path: Path, interval: dict[str, Any], own: float | None, is_whole: bool
) -> None:
    [entry] = parse_ranges({"pretrain_id.batch_targets": interval}, "mine.yaml")
    with open_study(tmp_path, "s", (entry.fit(own),), seed=1) as study:
        tried = []
        for _ in range(4):
            proposal = study.propose({"pretrain_id.batch_targets": own})
            tried.append(proposal.values["pretrain_id.batch_targets"])
            study.tell(proposal, 0.5)
    assert all(isinstance(value, int) == is_whole for value in tried)
    assert all(interval["low"] <= value <= interval["high"] for value in tried)
    assert len(set(tried)) > 2 or interval["high"] == 3


def test_fractions_are_refused_where_only_whole_numbers_are_possible() -> None:
    [entry] = parse_ranges({"pretrain_id.n_layers": {"low": 1, "high": 2.5}}, "mine.yaml")
    with pytest.raises(ConfigError, match="only whole numbers"):
        entry.fit(2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pretrain_id.dropout": 0.0}, "pretrain_id.dropout is 0.0, which is none of its range"),
        ({"pretrain_id.dropout": 0.25}, "pretrain_id.dropout is 0.25, which is none of its range"),
        ({"pretrain_id.width": 20}, "pretrain_id.width is 20, which is none of its range"),
        ({"pretrain_id.width": 32.5}, "pretrain_id.width is 32.5, which is none of its range"),
        (
            {"train_sicsrec.width": 48},
            "the range is one of equal values, but pretrain_id.width is 32, train_sicsrec.width "
            "is 48",
        ),
        (
            {"train_sicsrec.modalities": ["image"]},
            'train_sicsrec.modalities is ["image"], which is none of its range',
        ),
    ],
)
@pytest.mark.filterwarnings("error")
def test_own_values_that_the_ranges_do_not_hold_are_not_tried_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: dict[str, Any], reason: str
) -> None:
    own = OWN | change
    with caplog.at_level("INFO", "sicsrec.tuning.study"):
        [values] = carry_out(tmp_path, 1, own)
    assert caplog.messages == [f"the configuration's own values are not tried: {reason}"]
    assert values != own
    assert values["pretrain_id.dropout"] in {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}
    assert values["pretrain_id.width"] == values["train_sicsrec.width"]


def test_a_fraction_is_none_of_a_range_of_whole_numbers() -> None:
    [entry] = parse_ranges({"pretrain_id.n_layers": {"low": 1, "high": 4}}, "mine.yaml")
    assert entry.holds(2)
    assert not entry.holds(2.5)


def test_a_choice_is_one_however_its_number_is_written(tmp_path: Path) -> None:
    ranges = parse_ranges(
        {"train_sicsrec.alpha": [1, 0], "train_sicsrec.two_step": [True, False]}, "mine.yaml"
    )
    assert all(ranges[0].holds(value) for value in (0, 0.0, 1, 1.0))
    assert not ranges[0].holds(False)
    assert not ranges[1].holds(1)
    own = {"train_sicsrec.alpha": 1.0, "train_sicsrec.two_step": True}
    with open_study(tmp_path, "s", ranges, seed=3) as study:
        assert study.propose(own).values == own


def test_changed_own_values_come_first_where_a_search_goes_on(tmp_path: Path) -> None:
    better = OWN | {"pretrain_id.dropout": 0.3}
    carry_out(tmp_path, 2)
    assert carry_out(tmp_path, 4, better)[2] == better
    assert carry_out(tmp_path, 5, OWN).count(OWN) == 1


def test_own_values_are_tried_to_the_last_digit_and_others_are_rounded(tmp_path: Path) -> None:
    own = OWN | {"train_sicsrec.learning_rate": 0.00123456789}
    first, second = carry_out(tmp_path, 2, own)
    assert first == own
    drawn = second["train_sicsrec.learning_rate"]
    assert drawn == float(f"{drawn:.4g}")


def test_a_study_killed_within_a_trial_proposes_what_an_undisturbed_one_does(
    tmp_path: Path,
) -> None:
    undisturbed = carry_out(tmp_path / "one", 12)
    carry_out(tmp_path / "two", 2)
    with open_study(tmp_path / "two", "s", RANGES, seed=3) as study:
        cut_off = study.propose(OWN)  # and nothing is told: the process ends here
    assert cut_off.number == 3
    assert cut_off.values == undisturbed[2]
    assert carry_out(tmp_path / "two", 11) == undisturbed[:11]
    assert carry_out(tmp_path / "two", 12) == undisturbed
    assert carry_out(tmp_path / "two", 5) == undisturbed, "there is nothing left to do"


def test_a_study_killed_before_its_first_trial_tries_the_own_values_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_study(tmp_path / "killed", "s", RANGES, seed=3) as study:
        monkeypatch.setattr(study._study, "ask", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            study.propose(OWN)
    assert carry_out(tmp_path / "killed", 3) == carry_out(tmp_path / "undisturbed", 3)


def test_another_seed_proposes_other_values(tmp_path: Path) -> None:
    with open_study(tmp_path, "s", RANGES, seed=4) as study:
        study.tell(study.propose(OWN), 0.5)
        other = study.propose(OWN).values
    assert other != carry_out(tmp_path / "three", 2)[1]


def test_failures_count_as_trials_and_are_explained(tmp_path: Path) -> None:
    with open_study(tmp_path, "s", RANGES, seed=3) as study:
        study.tell_failed(study.propose(OWN), "DataError: no vectors")
        proposal = study.propose(OWN)
        assert proposal.number == 2
        study.tell(proposal, 0.25)
    with open_study(tmp_path, "s", RANGES, seed=3) as study:
        rows = study.rows()
    assert [(row.number, row.value, row.note) for row in rows] == [
        (1, None, "DataError: no vectors"),
        (2, 0.25, ""),
    ]
    assert best_of(rows) == rows[1]
    assert best_of(rows[:1]) is None
    table = trial_table(rows, "valid/mrr")
    assert table["valid/mrr"].to_list() == [None, 0.25]
    [axes] = plot_trials(rows, "valid/mrr").axes
    assert axes.lines[1].get_xydata().tolist() == [[2.0, 0.25]]


def test_of_equal_trials_the_earliest_wins(tmp_path: Path) -> None:
    with open_study(tmp_path, "s", RANGES, seed=3) as study:
        for value in (0.1, 0.3, 0.3):
            study.tell(study.propose(OWN), value)
        winner = best_of(study.rows())
    assert winner is not None
    assert winner.number == 2


def test_words_are_kept_and_one_process_at_a_time_works(tmp_path: Path) -> None:
    with open_study(tmp_path, "s", RANGES, seed=3) as study:
        assert study.recall("run") is None
        study.remember("run", "abc")
        with (
            pytest.raises(ConfigError, match="carried out by another process"),
            open_study(tmp_path, "s", RANGES, seed=3),
        ):
            pass
    with open_study(tmp_path, "s", RANGES, seed=3) as study:
        assert isinstance(study, Study)
        assert study.recall("run") == "abc"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "holds no range"),
        ({"evaluate.remove_seen": [True, False]}, "'evaluate.remove_seen' cannot be searched"),
        ({"split.valid_share": {"low": 0.1, "high": 0.2}}, "cannot be searched"),
        ({"pretrain_id": [1, 2]}, "'pretrain_id' cannot be searched"),
        ({"pretrain_id.dropout": {"low": 0.5, "high": 0.1}}, r"low \(0.5\) must be below high"),
        ({"pretrain_id.dropout": {"low": 0, "high": 1, "log": True}}, "needs a low above 0"),
        ({"train_sicsrec.alpha": {"low": 0.1, "high": float("inf")}}, "train_sicsrec.alpha: .*fin"),
        ({"train_sicsrec.alpha": {"low": float("nan"), "high": 1}}, "train_sicsrec.alpha: .*fin"),
        ({"pretrain_id.dropout": {"low": 0.1}}, r"pretrain_id.dropout: write \{low: ..., high"),
        ({"pretrain_id.dropout": [0.1]}, "at least two choices"),
        ({"pretrain_id.dropout": 0.1}, "found 0.1"),
        ({"pretrain_id.dropout, pretrain_id.dropout": [0.1, 0.2]}, "given twice"),
    ],
)
def test_what_is_no_range_is_refused(values, message) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_ranges(values, "mine.yaml")
