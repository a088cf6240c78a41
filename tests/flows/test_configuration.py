import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.configuration import (
    extend_preset,
    parse_override,
    preset_names,
    resolve_config,
)
from flows.search import load_ranges
from flows.variants import load_variants
from sicsrec.errors import ConfigError, NotApplicableError

REPOSITORY = Path(__file__).parents[2]
SHIPPED = sorted((REPOSITORY / "flows" / "presets").rglob("*.yaml"))


def test_every_yaml_file_is_a_preset() -> None:
    assert tuple(path.stem for path in SHIPPED) == preset_names()
    assert {"demo", "movielens-100k", "bili_food", "bili_movie"} <= set(preset_names())


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_resolves(preset: str) -> None:
    resolved = resolve_config(preset, data=None if preset == "demo" else "/data")
    assert resolved.config.dataset == preset
    assert {origin for _, _, origin in resolved.rows()} <= {
        "default",
        f"preset {preset}",
        "--data",
    }


def test_preset_without_data_says_how_to_give_it() -> None:
    with pytest.raises(ConfigError, match="--data FOLDER"):
        resolve_config("bili_food")


def test_a_file_may_name_its_data_by_the_home_folder(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: bili_food\ningest: {path: ~/videos}\n")
    assert resolve_config(str(path)).config.ingest.path == str(Path.home() / "videos")


def test_a_file_may_name_given_vectors_by_the_home_folder(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: bili_food\ningest: {path: /data}\n"
        "encode_items: {source: {kind: given, text: ~/text.npy, image: image.npy}}\n"
    )
    source = resolve_config(str(path)).config.encode_items.source
    assert (source.text, source.image) == (str(Path.home() / "text.npy"), "image.npy")


def test_demo_takes_no_data() -> None:
    with pytest.raises(ConfigError, match="generates its own"):
        resolve_config("demo", data="/data")


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("train_sicsrec.alpha=0.3", lambda c: c.train_sicsrec.alpha, 0.3),
        ("align_encoders.learning_rate=1e-5", lambda c: c.align_encoders.learning_rate, 1e-5),
        ("evaluate.remove_seen=true", lambda c: c.evaluate.remove_seen, True),
        (
            "ingest.text_fields=[title, description]",
            lambda c: c.ingest.text_fields,
            ("title", "description"),
        ),
        ("ingest.filters.since=2020-01-01", lambda c: c.ingest.filters.since, "2020-01-01"),
        ("align_encoders.image_encoder=null", lambda c: c.align_encoders.image_encoder, None),
        ("seed=7", lambda c: c.seed, 7),
    ],
)
def test_override_is_typed_as_yaml(override: str, read: object, expected: object) -> None:
    resolved = resolve_config("demo", overrides=[override])
    assert read(resolved.config) == expected  # type: ignore[operator]
    path = override.partition("=")[0]
    assert [origin for name, _, origin in resolved.rows() if name == path] == ["--set"]


def test_later_override_wins_and_seed_has_its_own_origin() -> None:
    resolved = resolve_config(
        "demo", overrides=["train_sicsrec.alpha=0.3", "train_sicsrec.alpha=0.4"], seed=3
    )
    origins = {path: origin for path, _, origin in resolved.rows()}
    assert resolved.config.train_sicsrec.alpha == 0.4
    assert origins["seed"] == "--seed"
    assert origins["dataset"] == "preset demo"
    assert origins["split.strategy"] == "default"


def test_another_variant_of_a_section_replaces_it() -> None:
    resolved = resolve_config(
        "demo",
        overrides=["align_encoders.text_encoder={library: transformers, model: some/model}"],
    )
    assert resolved.config.align_encoders.text_encoder.model == "some/model"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train_sicsrec.alfa=1", r"train_sicsrec.alfa: no such key; did you mean .*alpha"),
        ("trainsicsrec.alpha=1", r"trainsicsrec: no such key; did you mean train_sicsrec"),
        ("ingest.reader.n_itms=3", r"ingest.reader.n_itms: no such key; did you mean .*n_items"),
        ("ingest.reader.kind=table", r"ingest.reader.kind: no such value; did you mean tables\? "),
        ("ingest.reader=tables", "ingest.reader: a section with keys of its own is expected"),
        ("train_sicsrec.alpha=-1", r"train_sicsrec.alpha: .* \(got -1\)"),
        ("train_sicsrec.alpha=.inf", r"train_sicsrec.alpha: .*finite.* \(got inf\)"),
        ("train_sicsrec.alpha=.nan", r"train_sicsrec.alpha: .*finite.* \(got nan\)"),
        ("align_encoders.learning_rate=.inf", r"align_encoders.learning_rate: .*finite"),
        ("ingest.reader.n_items=0", r"ingest.reader.n_items: .* \(got 0\)"),
        ("train_sicsrec.width=100", "pretrain_id.width is 64 but train_sicsrec.width is 100"),
        ("train_sicsrec.alpha", "section.key=value"),
        ("=3", "section.key=value"),
        ("seed=[1", "not valid YAML"),
        ("train_sicsrec.alpha=0x_", "not valid YAML"),
        ("train_sicsrec.alpha=!!int foo", "not valid YAML"),
        ("train_sicsrec.alpha=!!bool foo", "not valid YAML"),
        ("train_sicsrec.alpha=!!timestamp foo", "not valid YAML"),
        ("train_sicsrec.alpha=" + "[" * 3000, "not valid YAML"),
    ],
)
def test_wrong_override_is_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_config("demo", overrides=[override])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("ingest.path=/data/a #1", "/data/a #1"),
        ("ingest.path= /data/a  # b ", "/data/a  # b"),
        ("ingest.path='/data/a' # here", "/data/a"),
        ("ingest.path=/data/a#1", "/data/a#1"),
        ("ingest.path=#1", "#1"),
        ("train_sicsrec.alpha=0.3 # less", 0.3),
    ],
)
def test_text_is_taken_whole_also_where_yaml_has_a_comment(override: str, value: object) -> None:
    assert parse_override(override)[1] == value


def test_what_yaml_takes_for_something_else_than_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: demo\ndataset: My Films\ningest: {reader: {kind: tables, items: a.csv, "
        "interactions: b.csv, title: on, item_id: 1e3}}\n"
    )
    with pytest.raises(ConfigError) as refused:
        resolve_config(str(path))
    for message in (
        "ingest.reader.title: text is expected; in YAML .* in quotes alone \\(got True\\)",
        "ingest.reader.item_id: text is expected",
        "dataset: a name is made of small letters, digits, - and _ \\(got 'My Films'\\)",
    ):
        assert re.search(message, str(refused.value))


def test_unknown_preset_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"'dmeo'; did you mean demo\? .*bili_food"):
        resolve_config("dmeo")


def test_file_extends_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: demo\ndataset: mine\ningest: {reader: {n_items: 50}}\n")
    resolved = resolve_config(str(path))
    origins = {name: origin for name, _, origin in resolved.rows()}
    assert resolved.config.ingest.reader.n_items == 50
    assert resolved.config.pretrain_id.width == 64
    assert origins["ingest.reader.n_items"] == "file mine.yaml"
    assert origins["pretrain_id.width"] == "preset demo"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset: a\ndataset: b\n", "line 2: 'dataset' is given twice"),
        ("ingest: {reader: {kind: demo, kind: demo}}\n", "'kind' is given twice"),
        ("- 1\n", "must hold sections"),
        ("a: [\n", "not valid YAML"),
        ("a: 0x_\n", r"mine\.yaml is not valid YAML: invalid literal"),
        ("a: !!int foo\n", r"mine\.yaml is not valid YAML: invalid literal"),
        ("extends: other\n", "must name a shipped preset"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("? [a, b]\n: 1\n", r"(?s)mine\.yaml is not valid YAML: .*sequence cannot be a key"),
        ("{a: 1}: 1\n", "mapping cannot be a key"),
        ("a: \x07\n", r"mine\.yaml is not valid YAML"),
    ],
)
def test_broken_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        resolve_config(str(path))


@pytest.mark.parametrize(
    "text",
    [
        "a: http://alice:s3cret@h/v1: [",
        "a: {b: !!int http://alice:s3cret@h/v1}",
        "url: {x: 'a', y: http://alice:s3cretpw@host/x: z}",
    ],
)
def test_what_is_no_yaml_is_told_without_the_passwords_in_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="not valid YAML") as of_file:
        resolve_config(str(path))
    with pytest.raises(ConfigError, match="not valid YAML") as of_override:
        resolve_config("demo", overrides=[f"sample_pairs.judge={{{text}}}"])
    for refused in (of_file, of_override):
        assert "s3cret" not in "".join(traceback.format_exception(refused.value))


def test_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes("extends: demo\ndataset: Jos\xe9\n".encode("latin-1"))
    message = r"mine\.yaml, line 2: not UTF-8 text; save"
    for read in (resolve_config, load_variants, load_ranges):
        with pytest.raises(ConfigError, match=message):
            read(str(path))
    with pytest.raises(ConfigError, match=message):
        extend_preset(str(path), {})


@pytest.mark.parametrize("read", [load_variants, load_ranges])
def test_list_as_a_key_is_refused_in_every_kind_of_file(
    tmp_path: Path, read: Callable[[str], object]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("[a, b]: [1, 2]\n")
    with pytest.raises(ConfigError, match=r"(?s)mine\.yaml is not valid .*cannot be a key"):
        read(str(path))


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file nobody can read")
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").symlink_to("/proc/self/mem")
    with pytest.raises(ConfigError, match=r"mine\.yaml cannot be read: "):
        resolve_config(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    "override",
    [
        "sample_pairs.judge={kind: openai, model: m, base_url: 'http://alice:s3cret@h/v1'}",
        "sample_pairs.judge={kind: openai, model: m, base_url: 'http://h/v1', api_key_variable: "
        "sk-s3cret-123}",
        "sample_pairs.judge={kind: openai, model: m, base_url: 'http://h/v1?key=s3cret'}",
    ],
)
def test_a_secret_that_is_refused_is_not_repeated(override: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resolve_config("demo", overrides=[override])
    assert "s3cret" not in "".join(traceback.format_exception(refused.value))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration file .*none\.yaml"):
        resolve_config(str(tmp_path / "none.yaml"))


def test_what_asks_for_data_that_there_is_not_is_told_apart() -> None:
    with pytest.raises(NotApplicableError, match=r"^train_sicsrec.modalities names image"):
        resolve_config("bili_food", data="/d", overrides=["train_sicsrec.modalities=[image]"])
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        resolve_config(
            "bili_food",
            data="/d",
            overrides=["train_sicsrec.modalities=[image]", "train_sicsrec.alpha=-1"],
        )
    assert not isinstance(caught.value, NotApplicableError)


def test_reference_says_all_that_shapes_and_trains_the_model() -> None:
    resolved = resolve_config("reference", data="/data")
    left_to_defaults = {
        path
        for path, _, origin in resolved.rows()
        if origin == "default" and path.startswith(("pretrain_id.", "train_sicsrec."))
    }
    # How fast it is, how it copes with millions of items, and what weighs nothing here.
    further = {"precision", "n_sampled", "sampled_softmax_above"}
    assert {path.split(".")[1] for path in left_to_defaults} == {
        *further, "content_weight", "modalities",
    }  # fmt: skip
    config = resolved.config
    assert config.train_sicsrec.temperature == 0.05
    assert config.train_sicsrec.scoring == "normalised"
    assert config.export.score == "sicsrec"


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"preset": "movielens-100k", "data": "/plat\udce9"}, "--data is /plat"),
        ({"preset": "plat\udce9.yaml"}, "the configuration is plat"),
        ({"overrides": ["ingest.path=/plat\udce9"]}, "--set is ingest.path=/plat"),
    ],
)
def test_names_that_are_not_in_utf8_are_refused(given: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=rf"{what}\\xe9.* whose name is not in UTF-8") as found:
        resolve_config(**given)
    str(found.value).encode()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"overrides": ["train_sicsrec.alfa=1"]},
            r"train_sicsrec\.alfa: no such key.*\(overrides\)",
        ),
        ({"overrides": ["train_sicsrec.alpha"]}, r"^overrides 'train_sicsrec\.alpha': write it as"),
        ({"overrides": ["seed={"]}, r"^overrides 'seed={': the value is not valid YAML"),
        ({"data": "here"}, "^data: the preset 'demo' generates its own"),
    ],
)
def test_runs_of_deployments_are_told_of_their_parameters(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolve_config("demo", as_parameters=True, **given)
    assert "--" not in str(caught.value)
