import doctest

import numpy as np
import polars as pl

from sicsrec.data import sequences
from sicsrec.data.sequences import Histories


def test_later_items_go_to_their_user_wherever_that_user_stands() -> None:
    histories = Histories(
        pl.Series("user_id", ["b", "c", "e"]),
        np.array([0, 2, 3, 5], dtype=np.int64),
        np.array([4, 5, 6, 7, 8], dtype=np.int32),
    )
    later = Histories(
        pl.Series("user_id", ["e", "a", "b"]),
        np.array([0, 3, 4, 5], dtype=np.int64),
        np.array([9, 1, 5, 2, 3], dtype=np.int32),
    )
    longer = histories.followed_by(later)
    found = {user: longer.of_user(row).tolist() for row, user in enumerate(longer.user_ids)}
    assert found == {"a": [2], "b": [4, 5, 3], "c": [6], "e": [7, 8, 9, 1, 5]}
    assert longer.user_ids.to_list() == sorted(found)
    assert longer.items.dtype == np.int32
    assert histories.lengths.tolist() == [2, 1, 2], "the histories themselves stay as they are"


def test_examples_in_the_docstrings() -> None:
    assert doctest.testmod(sequences, extraglobs={"np": np}) == (0, 2)


def test_owners_are_the_rows_of_the_users_of_all_items() -> None:
    histories = Histories(
        pl.Series("user_id", ["a", "b", "c"]),
        np.array([0, 2, 2, 5], dtype=np.int64),
        np.array([4, 5, 6, 7, 8], dtype=np.int32),
    )
    assert histories.owners.tolist() == [0, 0, 2, 2, 2]
