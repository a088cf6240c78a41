"""The README's commands are ones that the program takes, and its tables name what there is."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from flows.cli import app
from flows.configuration import preset_names, resolve_config
from flows.selection import select_steps
from sicsrec.steps import STEP_NAMES

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """Return the words of every ``sicsrec ...`` in the shell blocks."""
    found = []
    for line in "\n".join(blocks("sh")).replace("\\\n", " ").splitlines():
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            if words[:1] == ["sicsrec"]:
                found.append(words[1:])
    return found


def test_run_and_test_commands_stand_at_the_top() -> None:
    first, second = blocks("sh")[:2]
    assert "pip install . && sicsrec run" in first
    assert "pip install '.[dev]' && pytest -n 2" in second


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_command_is_taken(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for text in blocks("yaml"):
        name = re.match(r"# (\w+\.yaml)\n", text)
        (tmp_path / (name[1] if name else "my.yaml")).write_text(text)
    command = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    given = command.make_context(words[0], words[1:]).params
    if given.get("preset") is None:
        return
    config = resolve_config(
        given["preset"],
        data=given["data"],
        overrides=given["overrides"] or (),
        seed=given.get("seed"),
    ).config
    assert select_steps(config, given.get("until"), given.get("refresh") or ())


def test_steps_and_presets_are_named() -> None:
    assert not [name for name in (*STEP_NAMES, *preset_names()) if name not in README]


def test_pictures_are_there() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert pictures
    assert all((REPOSITORY / picture).is_file() for picture in pictures)
