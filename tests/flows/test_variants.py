"""Sets of variants, and which of them make sense for a dataset."""

from pathlib import Path

import pytest

from flows.shipped import shipped_names
from flows.variants import load_variants, plan_variants
from sicsrec.config import RandomStartConfig
from sicsrec.errors import ConfigError, NotApplicableError

GIVEN = ["encode_items.source={kind: given, text: text.npy}"]


def plan(variants, *overrides, preset="demo"):
    data = None if preset == "demo" else "/data"
    return plan_variants(variants, preset, data, overrides, None)


def test_shipped_sets() -> None:
    assert shipped_names("variants") == ("ablation", "item-start", "pair-sources")


def test_ablation_of_the_demo_runs_all_but_what_the_preset_does_already() -> None:
    planned = plan(load_variants("ablation"))
    assert list(planned.overrides) == [
        "full",
        "without L_con",
        "without two steps",
        "without adapters",
        "text only",
        "image only",
        "without stage 1",
        "normalised scoring",
        "content-aware scoring",
    ]
    assert planned.skipped == {"raw scoring": "here it is the same as 'full'"}


def test_without_covers_image_only_is_skipped_and_text_only_is_nothing_new() -> None:
    planned = plan(load_variants("ablation"), preset="bili_food")
    assert "align_encoders.image_encoder is missing" in planned.skipped["image only"]
    assert planned.skipped["text only"] == "here it is the same as 'full'"


def test_with_given_vectors_there_is_no_stage_one_to_leave_out() -> None:
    planned = plan(load_variants("ablation"), *GIVEN)
    assert planned.skipped["without stage 1"] == "here it is the same as 'full'"
    with pytest.raises(ConfigError, match="fewer than two variants are left"):
        plan(load_variants("pair-sources"), *GIVEN)


@pytest.mark.parametrize("variants", [{"a": [], "b": ["seed=7"]}, {"a": [" seed =7"], "b": []}])
def test_a_variant_cannot_be_a_seed(variants: dict[str, list[str]]) -> None:
    with pytest.raises(ConfigError, match=r"variant '[ab]': it sets the seed.*--seeds"):
        plan(variants)


@pytest.mark.parametrize(
    "change",
    ["evaluate.remove_seen=true", "ingest.filters.item_core=5", "split.strategy=global_time"],
)
def test_variants_that_rank_by_another_protocol_are_refused(change: str) -> None:
    with pytest.raises(ConfigError, match=r"variant 'other' sets .* cannot be compared"):
        plan({"full": [], "other": [change]})
    both = plan({"full": [], "other": ["train_sicsrec.alpha=0"]}, change)
    assert list(both.overrides) == ["full", "other"]


def test_shipped_sets_suit_every_rule_of_scoring() -> None:
    for name in shipped_names("variants"):
        planned = plan(
            load_variants(name),
            "train_sicsrec.item_scoring=id_and_content",
            "train_sicsrec.scoring=normalised",
        )
        assert len(planned.overrides) > 1


def test_pair_sources_differ_in_the_judge_alone() -> None:
    planned = plan(load_variants("pair-sources"))
    assert list(planned.overrides) == ["similarity", "co_occurrence", "random", "none"]
    assert planned.skipped == {}
    assert planned.first.config.sample_pairs.judge.kind == "similarity"


def test_overrides_of_the_command_come_before_those_of_a_variant() -> None:
    variants = {"a": [], "b": ["train_sicsrec.alpha=0.5"]}
    planned = plan(variants, "train_sicsrec.alpha=0.4")
    assert planned.first.config.train_sicsrec.alpha == 0.4
    changes = ["train_sicsrec.alpha=0.4", "train_sicsrec.alpha=0.5"]
    assert planned.overrides["b"] == ["refit=false", *changes]
    assert not planned.first.config.refit
    assert plan(variants, "refit=true").first.config.refit


def test_a_mistake_in_a_variant_is_an_error_and_no_skip() -> None:
    with pytest.raises(ConfigError, match=r"(?s)variant 'b': .*did you mean train_sicsrec.alpha"):
        plan({"a": [], "b": ["train_sicsrec.alfa=1"]})
    with pytest.raises(NotApplicableError, match="image_encoder is missing"):
        plan({"a": ["train_sicsrec.modalities=[image]"], "b": []}, preset="bili_food")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: train_sicsrec.alpha=0\n", "'a' must be a name with a list of overrides"),
        ("a: [{b: 1}]\n", "'a' must be a name with a list"),
        ("1: []\n", "1 must be a name"),
        ("- a\n", "must hold sections and values"),
        ("a: []\na: []\n", "'a' is given twice"),
    ],
)
def test_broken_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_variants(str(path))


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("a: []\nb: [train_sicsrec.alpha=0.5]\n")
    assert load_variants(str(path)) == {"a": [], "b": ["train_sicsrec.alpha=0.5"]}
    with pytest.raises(ConfigError, match="ablation, item-start, pair-sources"):
        load_variants("ablations")


@pytest.mark.parametrize("preset", ["demo", "bili_food"])
@pytest.mark.parametrize("overrides", [(), ("pretrain_id.item_start={kind: content, std: 0.3}",)])
def test_where_items_start_can_be_compared_from_any_preset(
    preset: str, overrides: tuple[str, ...]
) -> None:
    variants = load_variants("item-start")
    planned = plan(variants, *overrides, preset=preset)
    assert (list(planned.overrides), planned.skipped) == (list(variants), {})
    first = planned.first.config
    assert first.pretrain_id.item_start == RandomStartConfig(), "what the paper has"
    assert first.train_sicsrec.temperature == 0.0625
