import pytest

from flows.configuration import resolve_config
from flows.selection import select_steps
from sicsrec.config import PipelineConfig
from sicsrec.errors import ConfigError
from sicsrec.steps import STEP_NAMES

CONFIG = resolve_config("demo").config
GIVEN = resolve_config(
    "demo", overrides=["encode_items.source={kind: given, text: vectors.parquet}"]
).config


def test_all_steps_by_default() -> None:
    assert select_steps(CONFIG) == STEP_NAMES


def test_until_is_included() -> None:
    assert select_steps(CONFIG, "split") == ("ingest", "split")


def test_steps_that_are_not_needed_are_left_out() -> None:
    assert set(STEP_NAMES) - set(select_steps(GIVEN)) == {"sample_pairs", "align_encoders"}


@pytest.mark.parametrize(
    ("until", "refresh", "message"),
    [
        ("splt", (), r"--until splt: .* Did you mean split\? Steps: ingest, split"),
        (None, ("encode",), r"--refresh encode: .*encode_items"),
        ("split", ("export",), "does not reach"),
    ],
)
def test_wrong_names_are_refused(until: str | None, refresh: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        select_steps(CONFIG, until, refresh)


def test_refresh_of_a_step_that_is_not_needed_is_refused() -> None:
    with pytest.raises(ConfigError, match="need that step"):
        select_steps(GIVEN, refresh=("align_encoders",))


def test_wanted_steps_bring_what_they_need() -> None:
    assert select_steps(CONFIG, wanted=("ingest",)) == ("ingest",)
    assert select_steps(CONFIG, wanted=("pretrain_id",)) == ("ingest", "split", "pretrain_id")
    assert select_steps(CONFIG, wanted=("encode_items",)) == STEP_NAMES[:5]
    assert select_steps(GIVEN, wanted=("encode_items",)) == ("ingest", "encode_items")


@pytest.mark.parametrize(
    ("config", "until", "refresh", "wanted", "message"),
    [
        (CONFIG, None, (), ("encode",), "--step encode: .*encode_items"),
        (CONFIG, "split", (), ("export",), "--step export: this run does not reach"),
        (CONFIG, None, ("export",), ("split",), "--refresh export: this run does not reach"),
        (GIVEN, None, (), ("sample_pairs",), "need that step"),
    ],
)
def test_wanted_steps_that_are_not_there_are_refused(
    config: PipelineConfig,
    until: str | None,
    refresh: tuple[str, ...],
    wanted: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(ConfigError, match=message):
        select_steps(config, until, refresh, wanted)


@pytest.mark.parametrize(
    ("until", "refresh", "wanted", "message"),
    [
        ("split", ("export",), (), "^refresh export: this run does not reach"),
        ("split", (), ("export",), "^steps export: this run does not reach"),
        ("splt", (), (), "^until splt: there is no such step"),
    ],
)
def test_a_deployments_run_is_told_of_parameters(
    until: str, refresh: tuple[str, ...], wanted: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        select_steps(CONFIG, until, refresh, wanted, as_parameters=True)
