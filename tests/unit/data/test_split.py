import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicsrec.data.schema import INTERACTIONS
from sicsrec.data.split import HeldOut, TrainLog, ValidPart, global_time, leave_one_out
from sicsrec.errors import DataError, SchemaError


def log_of(histories, times=None):
    """Histories: user -> items in order; times: user -> times."""
    rows = [
        (user, item, None if times is None else times[user][place], place)
        for user, items in histories.items()
        for place, item in enumerate(items)
    ]
    return pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row")


def histories_of(frame):
    gathered = frame.group_by("user_id", maintain_order=True).agg("item_id")
    return dict(gathered.iter_rows())


def targets_of(part):
    return dict(part.targets.select("user_id", "item_id").iter_rows())


HISTORIES = {"b": ["1", "2", "3", "4"], "a": ["4", "3", "2"], "short": ["1", "2"], "one": ["3"]}


def test_leave_one_out_by_hand():
    split = leave_one_out(log_of(HISTORIES))
    assert histories_of(split.train.interactions) == {
        "a": ["4"],
        "b": ["1", "2"],
        "one": ["3"],
        "short": ["1", "2"],
    }
    assert targets_of(split.valid) == {"a": "3", "b": "3"}
    assert targets_of(split.test) == {"a": "2", "b": "4"}
    assert histories_of(split.valid.context) == {"a": ["4"], "b": ["1", "2"]}
    assert histories_of(split.test.context) == {"a": ["4", "3"], "b": ["1", "2", "3"]}


def test_nobody_with_three_interactions_is_an_error():
    with pytest.raises(DataError, match="none of 2 users has 3 interactions"):
        leave_one_out(log_of({"a": ["1", "2"], "b": ["1"]}))


def test_empty_log_is_an_error():
    with pytest.raises(DataError, match="no interactions"):
        leave_one_out(log_of({}))


def test_other_columns_are_an_error():
    with pytest.raises(SchemaError, match="position"):
        leave_one_out(log_of(HISTORIES).drop("position"))


def test_position_twice_is_an_error():
    log = log_of(HISTORIES)
    with pytest.raises(DataError, match="same position"):
        leave_one_out(pl.concat([log, log.head(1)]))


def test_position_against_time_is_an_error():
    with pytest.raises(DataError, match="do not follow the timestamps"):
        leave_one_out(log_of({"a": ["1", "2", "3"]}, {"a": [3, 1, 2]}))


TIMES = {"a": [0, 10, 60, 80, 85], "b": [5, 20, 90], "late": [65, 95], "new": [99], "old": [1, 2]}
TIMED = {user: [f"{user}{time}" for time in times] for user, times in TIMES.items()}


def test_global_time_by_hand():
    # 13 interactions in time order: 0 1 2 5 10 20 60 65 80 85 90 95 99; cuts at 65 and at 90.
    split = global_time(log_of(TIMED, TIMES), valid_share=0.23, test_share=0.23)
    assert histories_of(split.train.interactions) == {
        "a": ["a0", "a10", "a60"],
        "b": ["b5", "b20"],
        "old": ["old1", "old2"],
    }
    assert targets_of(split.valid) == {"a": "a80", "late": "late65"}
    assert histories_of(split.valid.context) == {"a": ["a0", "a10", "a60"]}
    assert histories_of(split.valid.interactions) == {"a": ["a80", "a85"], "late": ["late65"]}
    assert targets_of(split.test) == {"b": "b90", "late": "late95", "new": "new99"}
    assert histories_of(split.test.context) == {"b": ["b5", "b20"], "late": ["late65"]}


def test_equal_times_fall_on_one_side():
    times = {user: [0, 1, 2, 50, 50, 70] for user in "abc"}
    split = global_time(log_of({user: list("123456") for user in "abc"}, times), 0.3, 0.15)
    assert split.train.interactions["timestamp"].max() == 2
    assert split.valid.targets["item_id"].to_list() == ["4", "4", "4"]


def test_global_time_needs_timestamps():
    with pytest.raises(DataError, match="use leave_one_out"):
        global_time(log_of(HISTORIES), 0.1, 0.1)


def test_one_time_for_all_is_an_error():
    times = {"a": [7, 7, 7], "b": [7, 7, 7]}
    with pytest.raises(DataError, match=r"leaves nothing for train: 6 of 6 .* the same time"):
        global_time(log_of({"a": list("123"), "b": list("321")}, times), 0.2, 0.2)


def test_equal_times_between_the_points_are_an_error():
    times = {"a": [0, 1, 5, 5], "b": [2, 5, 5, 6]}
    with pytest.raises(DataError, match=r"leaves nothing for valid: 4 of 8 .* the same time"):
        global_time(log_of({user: list("1234") for user in "ab"}, times), 0.25, 0.25)


@pytest.mark.parametrize(("shares", "part"), [((0.1, 0.1), "valid"), ((0.49, 0.49), "train")])
def test_a_tiny_log_is_said_to_be_tiny(shares, part):
    times = {"a": [1, 2], "b": [3, 4], "c": [5, 6]}
    with pytest.raises(DataError, match=f"6 interactions are too few .* left for {part}") as caught:
        global_time(log_of({user: list("12") for user in "abc"}, times), *shares)
    assert "same time" not in str(caught.value)


histories = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.lists(st.tuples(st.sampled_from("12345678"), st.integers(0, 30)), min_size=1, max_size=9),
    min_size=1,
    max_size=8,
)


def draw_log(drawn):
    items = {user: [item for item, _ in rows] for user, rows in drawn.items()}
    times = {user: sorted(time for _, time in rows) for user, rows in drawn.items()}
    return log_of(items, times)


def check_parts(log, split):
    """What holds for every split: no interaction in two parts, contexts lie before targets."""
    key = ["user_id", "position"]
    place = log.select("user_id", "item_id", "timestamp", "position")
    assert (
        split.train.interactions.join(log, on=log.columns, how="anti", nulls_equal=True).height == 0
    )
    for part in (split.valid, split.test):
        assert part.targets["user_id"].is_unique().all()
        assert part.targets["user_id"].is_sorted()
        assert set(part.context["user_id"]) <= set(part.targets["user_id"])
        context = part.context.group_by("user_id").agg(n=pl.len(), last=pl.col("position").max())
        assert (context["n"] == context["last"] + 1).all()
        # The target stands right behind its context.
        behind = part.targets.join(context, on="user_id", how="left").with_columns(
            position=pl.col("n").fill_null(0).cast(pl.Int32)
        )
        assert behind.join(place, on=[*part.targets.columns, "position"], how="semi").height == len(
            behind
        )
        assert split.train.interactions.join(behind, on=key, how="semi").height == 0
    both = split.valid.targets.join(split.test.targets, on="user_id", suffix="_test")
    assert (both["timestamp"] <= both["timestamp_test"]).all()


@settings(max_examples=60)
@given(histories, st.randoms(use_true_random=False))
def test_leave_one_out_properties(drawn, random):
    log = draw_log(drawn)
    if log.group_by("user_id").len()["len"].max() < 3:
        return
    split = leave_one_out(log)
    check_parts(log, split)
    lengths = dict(log.group_by("user_id").len().iter_rows())
    assert set(targets_of(split.test)) == {user for user, n in lengths.items() if n >= 3}
    assert set(targets_of(split.valid)) == set(targets_of(split.test))
    held_out = 2 * sum(n >= 3 for n in lengths.values())
    assert split.train.interactions.height == log.height - held_out
    valid = split.valid.interactions
    assert valid.sort("user_id").select(split.valid.targets.columns).equals(split.valid.targets)
    check_same_when_shuffled(log, random, leave_one_out)


@settings(max_examples=60)
@given(histories, st.randoms(use_true_random=False))
def test_global_time_properties(drawn, random):
    log = draw_log(drawn)
    try:
        split = global_time(log, 0.2, 0.2)
    except DataError:
        return
    check_parts(log, split)
    train = split.train.interactions
    for part in (split.valid, split.test):
        if part.targets.height:
            assert train["timestamp"].max() < part.targets["timestamp"].min()
    valid = split.valid.interactions
    assert train["timestamp"].max() < valid["timestamp"].min()
    assert valid["timestamp"].max() < split.test.targets["timestamp"].min()
    late = (valid["timestamp"].max() or 0) + 1
    assert log.filter(pl.col("timestamp") < late).height == train.height + valid.height
    check_same_when_shuffled(log, random, lambda frame: global_time(frame, 0.2, 0.2))


def check_same_when_shuffled(log, random, split_by):
    rows = log.rows()
    random.shuffle(rows)
    first, second = split_by(log), split_by(pl.DataFrame(rows, schema=log.schema, orient="row"))
    assert first.train.interactions.equals(second.train.interactions)
    for name in ("valid", "test"):
        one, other = getattr(first, name), getattr(second, name)
        assert one.targets.equals(other.targets)
        assert one.context.equals(other.context)
    assert first.valid.interactions.equals(second.valid.interactions)


def test_parts_survive_writing_and_reading(tmp_path):
    split = leave_one_out(log_of(HISTORIES))
    split.train.write(tmp_path)
    split.test.write(tmp_path)
    assert TrainLog.read(tmp_path).interactions.equals(split.train.interactions)
    assert HeldOut.read(tmp_path).targets.equals(split.test.targets)
    assert HeldOut.read(tmp_path).context.equals(split.test.context)
    split.valid.write(tmp_path)
    valid = ValidPart.read(tmp_path)
    assert valid.interactions.equals(split.valid.interactions)
    assert valid.targets.equals(split.valid.targets)
    assert valid.context.equals(split.valid.context)


def test_file_of_another_table_is_refused(tmp_path):
    pl.DataFrame({"user_id": ["a"]}).write_parquet(tmp_path / "interactions.parquet")
    with pytest.raises(SchemaError, match="training log: item_id"):
        TrainLog.read(tmp_path)
