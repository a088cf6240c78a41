from pathlib import Path

import numpy as np
import pytest

from sicsrec.data import logged_histories
from sicsrec.data.logged_histories import LoggedHistories
from sicsrec.errors import DataError
from tests.unit.steps.tiny_store import N_USERS, histories_by_user, make_interactions

ITEM_IDS = [f"v{number:02d}" for number in (5, 1, 2, 3, 4)]


def read(path: Path, n_users: int, item_ids: list[str]) -> list[dict[str, list[str]]]:
    return [
        {
            user: [item_ids[index - 1] for index in chunk.of_user(row)]
            for row, user in enumerate(chunk.user_ids)
        }
        for chunk in LoggedHistories(path, item_ids).chunks(n_users)
    ]


@pytest.mark.parametrize("batch_rows", [3, 1000])
@pytest.mark.parametrize("n_users", [1, 6, N_USERS, 1000])
def test_chunks_hold_each_known_history_once_however_the_log_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_users: int, batch_rows: int
) -> None:
    monkeypatch.setattr(logged_histories, "_BATCH_ROWS", batch_rows)
    path = tmp_path / "log.parquet"
    make_interactions().write_parquet(path, row_group_size=5)
    expected = {
        user: known
        for user, items in histories_by_user().items()
        if (known := [item for item in items if item in ITEM_IDS])
    }
    chunks = read(path, n_users, ITEM_IDS)
    assert {user: items for chunk in chunks for user, items in chunk.items()} == expected
    sizes = [len(chunk) for chunk in chunks]
    assert sum(sizes) == len(expected) == len(LoggedHistories(path, ITEM_IDS))
    assert set(sizes[:-1]) <= {n_users}
    (first, *_) = LoggedHistories(path, ITEM_IDS).chunks(n_users)
    assert (first.items.dtype, first.offsets.dtype) == (np.int32, np.int64)


def test_a_log_that_is_not_sorted_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    make_interactions().sort("position").write_parquet(path)
    with pytest.raises(DataError, match=r"log\.parquet is not sorted by user_id"):
        list(LoggedHistories(path, ITEM_IDS).chunks(3))


def test_a_log_without_a_known_item_has_no_users(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    make_interactions().write_parquet(path)
    assert len(LoggedHistories(path, ["other"])) == 0
    assert list(LoggedHistories(path, ["other"]).chunks(3)) == []
