"""Held-out data given where training data is wanted does not pass the type checker."""

import pytest
from mypy import api

# Other people's packages are not followed, which takes a minute; sicsrec is, and strictly.
SETTINGS = """
[mypy]
strict = True
[mypy-sicsrec.*]
follow_imports = silent
disallow_any_generics = False
disallow_subclassing_any = False
[mypy-numpy.*,polars.*,pyarrow.*,pydantic.*,scipy.*,sklearn.*,torch.*]
follow_imports = skip
"""

PROGRAM = """
from pathlib import Path
from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.split import HeldOut, Split, TrainLog
from sicsrec.sampling.questions import QuestionSource

def sample(log: TrainLog, catalog: ItemCatalog) -> None:
    QuestionSource(log, catalog, "per_item", 5, 1)

def use(split: Split, catalog: ItemCatalog, folder: Path) -> None:
"""

ACCEPTED = (
    "sample(split.train, catalog)",
    "sample(TrainLog.read(folder), catalog)",
)

REFUSED = {
    "sample(split.valid, catalog)": 'incompatible type "ValidPart"; expected "TrainLog"',
    "sample(split.test, catalog)": 'incompatible type "HeldOut"; expected "TrainLog"',
    "sample(HeldOut.read(folder), catalog)": 'incompatible type "HeldOut"; expected "TrainLog"',
    'QuestionSource(split.test, catalog, "per_user", 5, 1)': 'incompatible type "HeldOut"',
    "split.test.interactions": '"HeldOut" has no attribute "interactions"',
}


@pytest.fixture(scope="module")
def complaints(tmp_path_factory):
    """What mypy says of each line."""
    folder = tmp_path_factory.mktemp("types")
    lines = [*ACCEPTED, *REFUSED]
    (folder / "mypy.ini").write_text(SETTINGS)
    program = folder / "program.py"
    program.write_text(PROGRAM + "".join(f"    {line}\n" for line in lines))
    out, err, _ = api.run(
        [
            f"--config-file={folder / 'mypy.ini'}",
            f"--cache-dir={folder / 'cache'}",
            "--no-error-summary",
            str(program),
        ]
    )
    assert not err
    first = PROGRAM.count("\n") + 1
    said = dict.fromkeys(lines, "")
    for message in out.splitlines():
        place = int(message.split(":")[1]) - first
        assert place >= 0, out
        said[lines[place]] += message
    return said


@pytest.mark.parametrize("line", ACCEPTED)
def test_training_log_is_accepted(complaints, line):
    assert not complaints[line]


@pytest.mark.parametrize("line", REFUSED)
def test_held_out_is_no_training_log(complaints, line):
    assert REFUSED[line] in complaints[line]
