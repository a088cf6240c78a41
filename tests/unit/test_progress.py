"""How long work still takes, as it is told."""

import pytest

from sicsrec.progress import TimeLeft


def test_what_a_killed_process_did_is_no_measure_of_speed() -> None:
    left = TimeLeft(100)
    assert left.seconds(0.0, 89) is None
    assert left.seconds(600.0, 90) == pytest.approx(6000.0)
    assert left.seconds(1200.0, 91) == pytest.approx(5400.0)


def test_the_estimate_ends_at_nothing_and_does_not_go_below() -> None:
    left = TimeLeft(4)
    assert [left.seconds(10.0 * done, done) for done in range(1, 6)] == [None, 20.0, 10.0, 0.0, 0.0]
