"""The table of deployments, and that docker/prefect.yaml says the same."""

import inspect
import json
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.client.orchestration import get_client
from prefect.utilities.callables import parameter_schema
from prefect.utilities.importtools import import_object
from prefect.utilities.schema_tools import ValidationError, validate

from flows.configuration import preset_names
from flows.deployments import (
    DEPLOYMENTS,
    FLOW_NAME,
    Deployment,
    _schedules,
    check_timezone,
    default_parameters,
    limit_gpu_work,
    parse_schedules,
)
from flows.parameters import StepName
from flows.pipeline import sicsrec
from sicsrec.config import PipelineConfig
from sicsrec.data.demo import write_demo
from sicsrec.errors import ConfigError
from sicsrec.steps import STEP_NAMES
from tasks._run import hold_gpu
from tasks.settings import GPU_LIMIT

ENTRYPOINT = "flows.pipeline.sicsrec"
FILE = Path(__file__).parents[2] / "docker" / "prefect.yaml"
SCHEMA: dict[str, Any] = parameter_schema(sicsrec).model_dump()


def test_there_is_one_deployment_for_all_for_each_stage_and_for_each_step() -> None:
    names = [entry.name for entry in DEPLOYMENTS]
    assert names == ["full-pipeline", "features", "training", *STEP_NAMES]
    assert sicsrec.name == FLOW_NAME
    assert import_object(ENTRYPOINT) is sicsrec


def test_prefect_yaml_holds_the_table() -> None:
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    assert PrefectYamlModel.model_validate(content).deployments
    listed = [
        Deployment(
            entry["name"],
            entry["description"],
            tags=tuple(entry["tags"]),
            parameters=entry.get("parameters", {}),
        )
        for entry in content["deployments"]
    ]
    assert [(e.full_name, e.description, e.tags, e.parameters) for e in listed] == [
        (e.full_name, e.description, e.tags, e.parameters) for e in DEPLOYMENTS
    ]
    assert {entry["entrypoint"] for entry in content["deployments"]} == {ENTRYPOINT}
    assert {entry["work_pool"]["name"] for entry in content["deployments"]} == {"sicsrec"}
    for step in (step for entry in content["deployments"] for step in entry.get("build", [])):
        assert callable(import_object(next(iter(step))))


@pytest.mark.parametrize(
    ("kind", "unknown"),
    [("process", {"image", "image_pull_policy"}), ("docker", set()), ("kubernetes", set())],
)
def test_job_variables_are_taken_by_every_kind_of_pool(kind: str, unknown: set[str]) -> None:
    """The base job templates of all kinds come with Prefect's server."""
    views = resources.files("prefect.server.api.collections_data.views")
    workers = json.loads((views / "aggregate-worker-metadata.json").read_text(encoding="utf-8"))
    (template,) = (
        found[kind]["default_base_job_configuration"] for found in workers.values() if kind in found
    )
    pool = yaml.safe_load(FILE.read_text(encoding="utf-8"))["definitions"]["work_pool"]
    asked = pool["job_variables"]
    assert set(asked) - set(template["variables"]["properties"]) == unknown
    known = {name: value for name, value in asked.items() if name not in unknown}
    validate(known, template["variables"], raise_on_error=True, ignore_required=True)
    assert all(f"{{{{ {name} }}}}" in json.dumps(template["job_configuration"]) for name in known)


@pytest.mark.parametrize("entry", DEPLOYMENTS, ids=lambda entry: entry.name)
def test_defaults_are_taken_by_the_schema(entry: Deployment) -> None:
    validate(dict(entry.parameters), SCHEMA, raise_on_error=True, ignore_required=True)


def test_form_describes_every_parameter_and_offers_what_exists() -> None:
    properties = SCHEMA["properties"]
    assert list(properties) == list(inspect.signature(sicsrec.fn).parameters)
    assert all(entry["description"] for entry in properties.values())
    assert properties["preset"]["anyOf"][0]["enum"] == list(preset_names())
    for name in ("refresh", "steps"):
        (items,) = (entry["items"] for entry in properties[name]["anyOf"] if "items" in entry)
        assert tuple(items["enum"]) == STEP_NAMES == StepName.__args__  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("parameters", "known"),
    [
        ({"preset": "dmeo"}, preset_names()),
        ({"refresh": ["encode"]}, STEP_NAMES),
        ({"steps": ["encode"]}, STEP_NAMES),
        ({"until": "splt"}, STEP_NAMES),
        ({"overrides": ["train_sicrec.alpha=1"]}, tuple(PipelineConfig.model_fields)),
        ({"overrides": ["train_sicsrec.alpha"]}, tuple(PipelineConfig.model_fields)),
    ],
)
def test_server_refuses_what_does_not_exist_and_says_what_does(
    parameters: dict[str, Any], known: tuple[str, ...]
) -> None:
    with pytest.raises(ValidationError) as caught:
        # As the server has it: through JSON.
        validate(
            json.loads(json.dumps(parameters)),
            json.loads(json.dumps(SCHEMA)),
            raise_on_error=True,
            ignore_required=True,
        )
    assert not [name for name in known if name not in str(caught.value)]


@pytest.mark.parametrize("preset", [*preset_names(), "mine.yaml", "/some/where/mine.yml"])
def test_server_takes_presets_and_files(preset: str) -> None:
    parameters = {"preset": preset, "overrides": ["train_sicsrec.alpha=0.3", "seed=7"]}
    validate(parameters, SCHEMA, raise_on_error=True, ignore_required=True)


def test_schedules_are_read() -> None:
    texts = ["full-pipeline=0 3 * * *", "encode_items = @daily"]
    assert parse_schedules(texts) == {"full-pipeline": "0 3 * * *", "encode_items": "@daily"}


def test_schedules_are_read_before_prefect_is_told_its_server() -> None:
    """What imports Prefect asks for the address of the server once, and that one starts later."""
    program = (
        "import sys; from flows.deployments import parse_schedules; "
        "parse_schedules(['full-pipeline=0 3 * * *']); sys.exit('prefect' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("full-pipeline", "write it as"),
        ("full-pipeline=", "write it as"),
        ("encode=0 3 * * *", "full-pipeline, features, training"),
        ("full-pipeline=1 2 3", "Five fields"),
    ],
)
def test_wrong_schedules_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_schedules([text])


@pytest.mark.parametrize("name", ["Europe/Atlantis", "", "../etc", "berlin time"])
def test_a_time_zone_that_there_is_not_is_refused(name: str) -> None:
    check_timezone("Europe/Berlin")
    with pytest.raises(ConfigError, match="there is no such time zone"):
        check_timezone(name)


def test_scheduled_runs_take_what_serve_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert default_parameters(None, None, ()) == {}
    monkeypatch.chdir(tmp_path)
    write_demo(tmp_path, n_items=4, n_users=6, seed=3)
    Path("my.yaml").write_text(
        "dataset: mine\n"
        "ingest: {reader: {kind: tables, items: items.csv, interactions: interactions.csv}}\n"
        "align_encoders: {text_encoder: {library: open_clip, architecture: {}}}\n"
    )
    assert default_parameters("my.yaml", ".", ["seed=7"]) == {
        "preset": str(tmp_path / "my.yaml"),
        "data": str(tmp_path),
        "overrides": ["seed=7"],
    }
    with pytest.raises(ConfigError, match="belong to a preset"):
        default_parameters(None, ".", ())
    with pytest.raises(ConfigError, match=r"pretrain_id.nix: no such key.*\(--set\)"):
        default_parameters("my.yaml", ".", ["pretrain_id.nix=7"])


@pytest.mark.parametrize("cron", ["61 3 * * *", "0 3 * * * * * *"])
def test_a_schedule_that_prefect_does_not_take_is_refused(cron: str) -> None:
    with pytest.raises(ConfigError, match=r"--cron features='.*' is no schedule"):
        _schedules("features", {"features": cron}, "UTC", None)


def test_gpu_is_held_under_the_limit_of_the_server(prefect_server: None) -> None:
    limit_gpu_work()
    with get_client(sync_client=True) as client:

        def places_taken() -> int:
            return int(client.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots)

        with hold_gpu():
            assert places_taken() == 1
        assert places_taken() == 0
        client.delete_global_concurrency_limit_by_name(GPU_LIMIT)
        with hold_gpu():
            pass  # where nobody set a limit, nobody waits
