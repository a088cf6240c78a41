"""Runs of the command line that are killed with SIGKILL; the next run makes up for all of it."""

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect.settings import PREFECT_API_URL

from sicsrec.tracking.mlflow_store import database_uri
from tests.flows.dying import Death
from tests.flows.runs import OVERRIDES, Launcher, artifacts_of, launching, left_behind, new_home

EARLY = ("run", *OVERRIDES, "--until", "split")
WHOLE = ("run", *OVERRIDES)
NAMED = (
    r"os.rename .*/\.alignment\.pt\.\w+\.tmp",
    r"os.rename .*encode_items/.*-00000\.npy\.\w+\.tmp",
    r"os.rename .*pretrain_id/.*\.checkpoint\.pt\.\w+\.tmp",
    r"os.rename .*train_sicsrec/.*\.partial ",
    r"os.mkdir .*mlflow/artifacts/.*/figures",
)
"""Between write and rename of checkpoints, shards of vectors, an artifact; before a picture."""


@pytest.fixture(scope="module")
def heavy_launcher(prefect_server: None) -> Iterator[Launcher]:
    with launching(heavy=True, PREFECT_API_URL=str(PREFECT_API_URL.value())) as started:
        yield started


@pytest.fixture(scope="module")
def undisturbed(
    launcher: Launcher, tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> dict[str, dict[str, str]]:
    """Digests of the artifacts of ``EARLY``."""
    home = new_home(tmp_path_factory.mktemp("undisturbed"), empty_database)
    run = launcher.start(home, *EARLY)
    assert run.wait() == 0, run.said()
    return artifacts_of(home)


def crash_and_run_again(
    launcher: Launcher, home: Path, death: Death, arguments: tuple[str, ...]
) -> dict[str, dict[str, str]]:
    """Return the artifacts after one run that was killed and one that was not."""
    killed = launcher.start(home, *arguments, death=death)
    assert killed.wait() == -signal.SIGKILL, killed.said()
    # Whatever is there now is whole; what is not whole is not there.
    artifacts_of(home)
    again = launcher.start(home, *arguments)
    assert again.wait() == 0, again.said()
    assert left_behind(home) == []
    client = MlflowClient(database_uri(home))
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    return artifacts_of(home)


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(r"os.chmod .*split/\.\w+\.partial/data", id="in the middle of a commit"),
        pytest.param(r"os.rename .*split/\.\w+\.partial ", id="between write and rename"),
        pytest.param(r"commit .*mlflow\.db", id="while MLflow is being written"),
    ],
)
def test_killed_run_is_made_up_for_by_the_next(
    launcher: Launcher,
    undisturbed: dict[str, dict[str, str]],
    tmp_path: Path,
    empty_database: Path,
    pattern: str,
) -> None:
    home = new_home(tmp_path / "home", empty_database)
    death = Death(under=str(home), pattern=pattern, number=10 if "commit " in pattern else 1)
    assert crash_and_run_again(launcher, home, death, EARLY) == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_25_crashes_at_random_moments(
    heavy_launcher: Launcher, tmp_path: Path, empty_database: Path
) -> None:
    home = new_home(tmp_path / "undisturbed", empty_database)
    log = tmp_path / "events.txt"
    run = heavy_launcher.start(home, *WHOLE, death=Death(str(home), number=0, log=str(log)))
    assert run.wait() == 0, run.said()
    expected = artifacts_of(home)
    assert len(expected) == 9
    n_events = len(log.read_text().splitlines())
    for seed in range(25):
        home = new_home(tmp_path / f"seed-{seed}", empty_database)
        if seed < len(NAMED):
            death = Death(str(home), NAMED[seed])
        else:
            draw = random.Random(seed)  # noqa: S311 - moments, not secrets
            # Half of them die a little later, in what libraries write without saying so.
            delay = draw.choice((0.0, draw.uniform(0.0, 0.1)))
            death = Death(str(home), number=draw.randint(1, n_events - 20), delay=delay)
        found = crash_and_run_again(heavy_launcher, home, death, WHOLE)
        assert found == expected, f"seed {seed}: {death}"
