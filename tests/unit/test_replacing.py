import subprocess
import sys

import pytest

from sicsrec.replacing import replaced

DYING = """
import os, pathlib, sys
from sicsrec.replacing import replaced
with replaced(pathlib.Path(sys.argv[1])) as file:
    file.write(b"half")
    os.kill(os.getpid(), 9)
"""


def write(path, content=b"new"):
    with replaced(path) as file:
        file.write(content)


def test_files_of_others_beside_it_stay(tmp_path):
    others = ("best.tmp", ".best.yaml.tmp", ".best.yaml.old.tmp", ".better.yaml.tmp")
    for name in others:
        (tmp_path / name).write_text("mine")
    write(tmp_path / "best.yaml")
    assert (tmp_path / "best.yaml").read_bytes() == b"new"
    assert {path.name for path in tmp_path.iterdir()} == {"best.yaml", *others}
    assert {(tmp_path / name).read_text() for name in others} == {"mine"}


def test_the_old_file_stays_and_nothing_is_left_when_the_block_fails(tmp_path):
    path = tmp_path / "best.yaml"
    write(path, b"old")
    with pytest.raises(TypeError):
        write(path, "no bytes")
    assert [beside.read_bytes() for beside in tmp_path.iterdir()] == [b"old"]


def test_what_a_kill_left_goes_with_the_next_writing(tmp_path):
    path = tmp_path / "best.yaml"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", DYING, path], check=False)
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(".best.yaml.")
    write(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_may_be_as_long_as_a_name_can_be(tmp_path):
    path = tmp_path / f"{'影' * 83}.yaml"
    write(path)
    assert path.read_bytes() == b"new"
