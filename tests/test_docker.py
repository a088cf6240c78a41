"""What the container files say fits the repository; no engine builds or starts anything here."""

import re
import shlex
import shutil
import subprocess
import tomllib
from importlib.metadata import version

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from prefect.settings import Settings as PrefectSettings
from pydantic import BaseModel

from tasks.settings import Settings
from tests.conftest import REPOSITORY

DOCKER = REPOSITORY / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
GPU = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]


def instructions():
    """Instructions of the Dockerfile with their arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def constraints():
    lines = (DOCKER / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): pinned for name, pinned in pins}


def installed_extras():
    [names] = re.findall(r"'\.\[([a-z0-9,]+)\]'", DOCKERFILE)
    return names.split(",")


def words_of(service):
    """The words of what a service starts, those of a shell's script included."""
    words = [*service.get("entrypoint", []), *service.get("command", [])]
    return [part for word in words for part in (shlex.split(word) if " " in word else [word])]


def test_what_the_image_copies_is_there_and_the_image_has_all_it_needs():
    copied = [word for name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]]
    assert all((REPOSITORY / path).exists() for path in copied)
    packages = ("sicsrec", "tasks", "flows")
    assert {"pyproject.toml", "README.md", "docker/constraints.txt", *packages} <= set(copied)
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").split()
    assert not set(copied) & set(ignored)


def test_images_run_as_a_normal_user_and_start_our_command():
    names = [name for name, _ in instructions()]
    users = [rest for name, rest in instructions() if name == "USER"]
    stages = [rest.split() for name, rest in instructions() if name == "FROM"]
    assert users == ["sicsrec"]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "COPY")
    assert {stage[-1]: stage[0] for stage in stages[1:]} == {"cpu": "base", "gpu": "base"}
    assert ("CMD", '["sicsrec", "run"]') in instructions()
    assert "ENTRYPOINT" not in {name for name, _ in instructions()}, "pools give whole commands"
    assert "sicsrec" in PROJECT["scripts"]


def test_constraints_pin_every_dependency_of_the_image_to_what_the_project_allows():
    extras = PROJECT["optional-dependencies"]
    assert set(installed_extras()) <= set(extras) - {"dev"}
    wanted = [*PROJECT["dependencies"]]
    for name in installed_extras():
        wanted += extras[name]
    pins = constraints()
    for requirement in map(Requirement, wanted):
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement.name


@pytest.mark.parametrize("name", ["prefect", "mlflow", "torch", "peft", "av", "distributed"])
def test_what_is_pinned_is_what_the_tests_run_with(name):
    assert version(name) in Requirement(f"{name}=={constraints()[name]}.*").specifier


def test_services_name_what_there_is():
    for name, service in SERVICES.items():
        assert "healthcheck" in service, name
        for other, how in service.get("depends_on", {}).items():
            assert other in SERVICES
            assert how == {"condition": "service_healthy"}
        for volume in service["volumes"]:
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0]
            if source.startswith("./") and source != "./data":
                assert (DOCKER / source).is_file()
            elif source != "./data":
                assert source in COMPOSE["volumes"]
        build = service.get("build")
        if build:
            assert (DOCKER / build["context"] / build["dockerfile"]).resolve() == (
                DOCKER / "Dockerfile"
            )
    targets = {rest.split()[-1] for name, rest in instructions() if name == "FROM"}
    for service in (*SERVICES.values(), *GPU["services"].values()):
        assert service.get("build", {}).get("target", "cpu") in targets
    assert set(GPU["services"]) <= set(SERVICES)


def test_only_the_loopback_is_reached_from_outside():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert sorted(ports) == ["127.0.0.1:4200:4200", "127.0.0.1:5000:5000"]


def test_no_password_is_written_down():
    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    uses = re.findall(r"\$\{POSTGRES_PASSWORD[^}]*\}", text)
    assert len(uses) == 3
    assert all(":?" in use for use in uses), "without it, nothing starts"
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if "PASSWORD" in name or "://sicsrec:" in str(value):
                assert "${POSTGRES_PASSWORD:?" in value


def prefect_variables(settings, prefix="PREFECT_"):
    for name, field in settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from prefect_variables(field.annotation, f"{prefix}{name.upper()}_")
        else:
            yield prefix + name.upper()


def test_variables_are_those_that_somebody_reads():
    settings = (REPOSITORY / "tasks" / "settings.py").read_text(encoding="utf-8")
    known = set(prefect_variables(PrefectSettings))
    for service in SERVICES.values():
        for name in service.get("environment", {}):
            if name.startswith("SICSREC_"):
                assert f'"{name}"' in settings
            elif name.startswith("PREFECT_"):
                assert name in known


def test_the_worker_serves_the_pool_of_the_deployments():
    words = words_of(SERVICES["worker"])
    deployments = yaml.safe_load((DOCKER / "prefect.yaml").read_text(encoding="utf-8"))
    [pool] = {entry["work_pool"]["name"] for entry in deployments["deployments"]}
    assert words[words.index("--pool") + 1] == pool
    assert words[words.index("inspect") + 1] == pool
    assert words[words.index("create") + 3].rstrip(";") == pool
    assert words[words.index("--prefect-file") + 1] == "/opt/sicsrec/docker/prefect.yaml"


def test_runs_of_a_work_pool_have_the_variables_that_the_command_line_sets():
    deployments = yaml.safe_load((DOCKER / "prefect.yaml").read_text(encoding="utf-8"))
    given = deployments["definitions"]["work_pool"]["job_variables"]["env"]
    ours = Settings.from_environment({"SICSREC_HOME": "/home"}).third_party_environment()
    assert given.items() <= ours.items()
    # Not what a server is told, nor what is for a terminal, which a worker's runs have none of.
    assert {name for name in ours if name.startswith("MLFLOW_HTTP_") or "TELEMETRY" in name} <= set(
        given
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "prefect server start --host --port",
        "prefect work-pool inspect",
        "prefect work-pool create --type",
        "prefect deploy --all --prefect-file",
        "prefect worker start --pool --type --with-healthcheck",
        "mlflow server --host --port --workers",
    ],
)
def test_commands_know_the_options_they_are_given(command):
    words = command.split()
    names = [word for word in words if not word.startswith("--")]
    assert shutil.which(names[0])
    script = " ".join(" ".join(words_of(service)) for service in SERVICES.values())
    assert names[-1] in script
    shown = subprocess.run([*names, "--help"], capture_output=True, text=True, check=True).stdout
    for option in set(words) - set(names):
        assert option in script
        assert option in shown
