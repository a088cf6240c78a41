"""The command line. Prefect, MLflow and torch are imported by the commands that need them."""

import importlib.metadata
import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from sicsrec.addresses import without_passwords
from sicsrec.errors import SicsrecError
from sicsrec.paths import printable

if TYPE_CHECKING:
    from flows.configuration import ResolvedConfig
    from tasks.settings import Settings

app = typer.Typer(
    name="sicsrec",
    help="Raw video metadata, covers and watch histories to an evaluated, exported recommender.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
logger = logging.getLogger(__name__)

_MOST_DAYS = 36_500
"""A century; times before the year 1 cannot be computed with."""

Preset = Annotated[
    str, typer.Argument(help="A shipped preset, or a YAML file of yours.", metavar="[PRESET]")
]
Data = Annotated[
    str | None, typer.Option("--data", help="Folder of the raw data.", metavar="FOLDER")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Change a value: train_sicsrec.alpha=0.3; repeatable.", metavar="KEY=VALUE"
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option("--dataset", help="Whose newest export; not needed with one.", metavar="NAME"),
]
ExportKey = Annotated[
    str | None, typer.Option("--export", help="An older export, by its key.", metavar="KEY")
]
Port = Annotated[
    int | None, typer.Option("--port", min=1, max=65535, help="Another port of 127.0.0.1.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of every step that is random.")]


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        Console().print(f"sicsrec {importlib.metadata.version('sicsrec')}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Hold the options that come before a command."""


@app.command()
def run(
    preset: Preset = "demo",
    data: Data = None,
    overrides: Overrides = None,
    refresh: Annotated[
        list[str] | None,
        typer.Option(
            "--refresh",
            help="Run this step even if reusable; repeatable.",
            metavar="STEP",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Last step to run.", metavar="STEP")
    ] = None,
    step: Annotated[
        list[str] | None,
        typer.Option(
            "--step", help="Only this step and what it needs; repeatable.", metavar="STEP"
        ),
    ] = None,
    seed: Seed = None,
) -> None:
    """Run the pipeline; what did not change is reused."""
    console, settings = Console(), _settings()
    with _clear_errors(console):
        from flows.selection import select_steps
        from sicsrec.steps.external import check_places

        resolved = _resolve(preset, data, overrides, seed)
        steps = select_steps(resolved.config, until, refresh or (), step or ())
        check_places(steps, resolved.config)
        settings.make_home()
    log = _log_file(settings, Path(preset).stem)
    with _clear_errors(console, log):
        from flows.session import RunRequest, print_results, run_pipeline

        request = RunRequest(
            preset, data, overrides or [], refresh or [], until, seed, steps=step or []
        )
        finished = run_pipeline(request, steps, settings, console, log)
        print_results(finished, resolved, settings, console)


@app.command()
def compare(
    preset: Preset = "demo",
    data: Data = None,
    variants: Annotated[
        str,
        typer.Option(
            "--variants",
            help="ablation, item-start, pair-sources, or a YAML file: names and overrides.",
            metavar="SET",
        ),
    ] = "ablation",
    n_seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Seeds that every variant runs with.")
    ] = 3,
    overrides: Overrides = None,
    seed: Annotated[int | None, typer.Option("--seed", help="The first of the seeds.")] = None,
) -> None:
    """Run variants of a pipeline over seeds and say which helps; what did not change is reused."""
    console, settings = Console(), _settings()
    with _clear_errors(console):
        from flows.variants import load_variants, plan_variants
        from sicsrec.steps.external import check_places

        plan = plan_variants(load_variants(variants), preset, data, overrides or (), seed)
        check_places(["ingest"], plan.first.config)
        settings.make_home()
    log = _log_file(settings, "compare", Path(preset).stem)
    with _clear_errors(console, log):
        from flows.compare import (
            ComparisonRequest,
            print_comparison,
            print_skipped,
            run_comparison,
        )

        print_skipped(plan.skipped, console)
        first_seed = plan.first.config.seed
        seeds = range(first_seed, first_seed + n_seeds)
        request = ComparisonRequest(variants, preset, data, seeds)
        outcome = run_comparison(request, plan, settings, console, log)
        print_comparison(outcome, settings, console)


@app.command()
def report(
    dataset: Annotated[
        str | None, typer.Argument(help="Of this data set.", metavar="[DATASET]")
    ] = None,
    opens: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
) -> None:
    """Say where the page on the newest run lies; it is made when it is not there."""
    console, settings = Console(), _settings()
    with _clear_errors(console):
        from flows.reports import newest_report

        page = newest_report(settings, dataset)
        console.print(Text(str(page)), soft_wrap=True)
        if opens:
            typer.launch(str(page))


@app.command()
def results(
    dataset: Annotated[str, typer.Argument(help="Of this data set.", metavar="[DATASET]")] = "demo",
) -> None:
    """Show what every evaluated configuration reached, mean and interval over its seeds."""
    console, settings = Console(), _settings()
    with _clear_errors(console):
        from flows.results import results_views

        for view in results_views(settings, dataset):
            console.print(view)


@app.command()
def search(
    preset: Preset = "demo",
    data: Data = None,
    ranges: Annotated[
        str,
        typer.Option(
            "--ranges",
            help="stage-two, step-one, step-two, or a YAML file: keys with ranges.",
            metavar="RANGES",
        ),
    ] = "stage-two",
    n_trials: Annotated[
        int, typer.Option("--trials", min=1, help="Trials in all, earlier ones included.")
    ] = 20,
    metric: Annotated[
        str, typer.Option("--metric", help="Validation metric to go by.")
    ] = "ndcg_at_10",
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Where the winner is written.", metavar="FILE.yaml"),
    ] = None,
    overrides: Overrides = None,
    seed: Seed = None,
) -> None:
    """Search better values by the validation part; a search that was cut off goes on."""
    console, settings = Console(), _settings()
    with _clear_errors(console):
        from flows.search import SearchRequest, plan_search

        request = SearchRequest(
            preset, data, overrides or [], seed, ranges, metric, n_trials, output
        )
        plan = plan_search(request, settings)
        settings.make_home()
    log = _log_file(settings, "search", Path(preset).stem)
    with _clear_errors(console, log):
        from flows.search import print_search, run_search

        print_search(run_search(plan, settings, console, log), plan, settings, console)


@app.command()
def recommend(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="With --new-item: a text, a cover, or both.", metavar="[FILES]"),
    ] = None,
    user: Annotated[str | None, typer.Option("--user", help="A user of the dataset.")] = None,
    history: Annotated[
        str | None,
        typer.Option(
            "--history",
            help='Item ids, oldest first; also one a line; one with a comma as "a,b".',
            metavar="ID,ID,ID",
        ),
    ] = None,
    is_new_item: Annotated[
        bool,
        typer.Option("--new-item", help="What a video that nobody has watched is near, and whose."),
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what spoke for each recommendation.")
    ] = False,
    k: Annotated[int, typer.Option("--k", min=1, help="Recommendations.")] = 10,
    dataset: Dataset = None,
    export_key: ExportKey = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="A model folder, in place of an export.", metavar="FOLDER"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Recommend to a user or after a history; place a new video among the items."""
    console, settings = Console(), _settings()
    with _clear_errors(console):
        import json

        from flows.recommend import answer_tables
        from sicsrec.artifacts import ArtifactStore
        from sicsrec.errors import ConfigError
        from sicsrec.steps.questions import Question, look_into

        if bool(files) != is_new_item:
            raise ConfigError("--new-item takes files: sicsrec recommend --new-item a.txt a.jpg")
        ids = None if history is None else _split_ids(history)
        question = Question(user, ids, tuple(files or ()), k, explain)
        store = ArtifactStore(settings.store_root)
        asked = look_into(question, store, dataset=dataset, key=export_key, model=model)
        # Imports torch, which takes seconds: what is wrong is said before.
        from sicsrec.steps.answers import answer

        content = answer(asked)
        if as_json:
            typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
            return
        for part in answer_tables(content):
            console.print(part)


def _split_ids(text: str) -> tuple[str, ...]:
    """Return ids written as in a CSV file, where one with a comma stands in quotes; all its rows.

    A file of one id a line is as good as one row.
    """
    import csv
    import io

    rows = csv.reader(io.StringIO(text, newline=None), skipinitialspace=True)
    return tuple(entry for row in rows for entry in map(str.strip, row) if entry)


@app.command()
def export(
    kind: Annotated[
        str, typer.Option("--format", help="parquet, jsonl, npy, faiss or onnx.", metavar="FORMAT")
    ] = "parquet",
    to: Annotated[
        Path, typer.Option("--to", help="Folder of the files; made when needed.", metavar="FOLDER")
    ] = Path("exported"),
    k: Annotated[
        int | None,
        typer.Option("--k", min=1, help="Recommendations per user, in place of the export's own."),
    ] = None,
    dataset: Dataset = None,
    export_key: ExportKey = None,
) -> None:
    """Write recommendations, vectors, an index or the network of a finished export to files."""
    console, settings = Console(), _settings()
    with _clear_errors(console):
        from flows.terminal import BarProgress
        from sicsrec.artifacts import ArtifactStore
        from sicsrec.steps.export_files import export_files
        from sicsrec.steps.finished import newest_export

        finished = newest_export(ArtifactStore(settings.store_root), dataset, export_key)
        # What a script reads holds the paths alone.
        progress = BarProgress(console) if console.is_terminal else None
        with progress.bars if progress else nullcontext():
            written = export_files(finished, kind, to, k=k, progress=progress)
        for path in written:
            console.print(Text(str(path)), soft_wrap=True)


@app.command()
def status(
    preset: Preset = "demo", data: Data = None, overrides: Overrides = None, seed: Seed = None
) -> None:
    """Show which steps are cached and which a run would do."""
    console, settings = Console(), _settings()
    with _clear_errors(console):
        from flows.server import close_killed_records, crash_killed_flow_runs, is_answering
        from flows.views import status_table
        from sicsrec.runs import killed_processes
        from tasks.shared_store import open_shared_store

        config = _resolve(preset, data, overrides, seed).config
        shared = open_shared_store(settings.shared_store)
        console.print(status_table(config, settings.store_root, shared, width=console.width))
        # Last: the table needs no database, which may be away, or on a full disk.
        gone = killed_processes(settings.store_root)
        close_killed_records(settings, gone)
        api_url = settings.prefect_api_url
        if api_url is not None and is_answering(api_url):
            try:
                crash_killed_flow_runs(api_url, gone)
            except SicsrecError as err:
                console.print(Text(str(err), style="yellow"), soft_wrap=True)


@app.command()
def gc(
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove it; without this, only show it.")
    ] = False,
    keep: Annotated[
        int, typer.Option(min=1, help="Good runs to keep per dataset, preset and last step.")
    ] = 1,
    older_than: Annotated[
        float, typer.Option(min=0, help="Keep artifacts younger than this.", metavar="DAYS")
    ] = 0.0,
    dataset: Annotated[
        list[str] | None, typer.Option(help="Only this dataset; repeatable.", metavar="NAME")
    ] = None,
    caches: Annotated[
        bool, typer.Option("--caches", help="Also answers of language models, paid or not.")
    ] = False,
) -> None:
    """Show which artifacts no good run needs, and remove them when told to."""
    console, settings = Console(), _settings(writes=True)
    with _clear_errors(console):
        from datetime import timedelta

        from flows.tidying import remove_what_can_go, show_what_can_go
        from sicsrec.errors import ConfigError
        from sicsrec.retention import RetentionPolicy
        from tasks.record import runs_to_keep

        if not older_than <= _MOST_DAYS:
            raise ConfigError(f"--older-than {older_than:g}: give days, {_MOST_DAYS} at most")
        policy = RetentionPolicy(keep, timedelta(days=older_than), caches, runs_to_keep())
        work = remove_what_can_go if delete else show_what_can_go
        work(settings, policy, dataset or (), console)


@app.command()
def plan(
    preset: Preset = "demo", data: Data = None, overrides: Overrides = None, seed: Seed = None
) -> None:
    """Show what a language model would be asked for pairs; nothing is sent."""
    console, settings = Console(), _settings()
    with _clear_errors(console):
        from flows.views import asking_table
        from sicsrec.artifacts import ArtifactStore
        from sicsrec.steps.asking_plan import plan_asking

        config = _resolve(preset, data, overrides, seed).config
        numbers = plan_asking(config, ArtifactStore(settings.store_root)).describe()
        console.print(asking_table(config, numbers))


@app.command()
def config(
    preset: Preset = "demo", data: Data = None, overrides: Overrides = None, seed: Seed = None
) -> None:
    """Print the resolved configuration, every value with its origin."""
    console = Console()
    with _clear_errors(console):
        from flows.views import config_lines

        for line in config_lines(_resolve(preset, data, overrides, seed)):
            console.print(line, soft_wrap=True)


@app.command()
def steps() -> None:
    """Show the steps in order: what each reads and writes, and may see of the log."""
    from flows.views import steps_table

    Console().print(steps_table())


@app.command()
def ui(
    prefect: Annotated[
        bool, typer.Option("--prefect", help="Show Prefect's page in place of MLflow's.")
    ] = False,
    port: Port = None,
) -> None:
    """Show past runs in the browser: MLflow, or Prefect."""
    console, settings = Console(), _settings(writes=True)
    with _clear_errors(console):
        from flows.server import show_mlflow, show_prefect

        show = show_prefect if prefect else show_mlflow
        raise typer.Exit(show(settings, port, lambda text: console.print(Text(text))))


@app.command()
def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Compare sizes in the store, not digests.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check versions, Prefect, MLflow, GPU, disk and store, and say what to do."""
    console, settings = Console(), _settings()
    with _clear_errors(console):
        from flows.doctor import checks_json, checks_table, examine, is_sound

        checks = examine(settings, with_digests=not quick)
        if as_json:
            typer.echo(checks_json(checks))
        else:
            console.print(checks_table(checks))
        raise typer.Exit(0 if is_sound(checks) else 1)


@app.command()
def serve(
    preset: Annotated[
        str | None,
        typer.Argument(help="What runs take by default, as a schedule does: a preset or a file."),
    ] = None,
    data: Data = None,
    overrides: Overrides = None,
    port: Port = None,
    cron: Annotated[
        list[str] | None,
        typer.Option(
            "--cron",
            help='Schedule: full-pipeline="0 3 * * *"; repeatable.',
            metavar="DEPLOYMENT=CRON",
        ),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option("--timezone", help="Of the schedules, such as Europe/Berlin; otherwise UTC."),
    ] = None,
    n_at_once: Annotated[
        int, typer.Option("--at-once", min=1, help="Runs carried out at the same time.")
    ] = 1,
) -> None:
    """Register the deployments with Prefect and carry out their runs until stopped."""
    console = Console()
    # Nothing else shows in this terminal how the runs go.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO")
    settings = _settings(writes=True)
    with _clear_errors(console):
        from flows.deployments import (
            check_timezone,
            default_parameters,
            parse_schedules,
            serve_deployments,
        )
        from flows.server import standing_prefect_server
        from flows.service import deployments_table, print_how_to_run
        from sicsrec.errors import ConfigError

        schedules = parse_schedules(cron or ())
        if timezone is not None and not schedules:
            raise ConfigError(f"--timezone {timezone} is that of schedules; give one with --cron")
        zone = "UTC" if timezone is None else timezone
        check_timezone(zone)
        parameters = default_parameters(preset, data, overrides or ())
        with standing_prefect_server(settings, port) as api_url:
            console.print(deployments_table(schedules, zone))
            page = settings.prefect_page
            serve_deployments(
                schedules,
                n_at_once,
                lambda: print_how_to_run(api_url, page, console),
                timezone=zone,
                parameters=parameters,
            )


@app.command()
def join(
    host: Annotated[
        int, typer.Option("--host", min=1, help="Number of this host; 0 runs the pipeline.")
    ],
) -> None:
    """Train together with the host that runs the pipeline, until stopped."""
    console, settings = Console(), _settings(writes=True)
    with _clear_errors(console):
        from tasks.hosts import join as join_trainings

        console.print(
            Text(f"host {host}: waiting for trainings in {settings.home}; Ctrl-C ends it"),
            soft_wrap=True,
        )
        with suppress(KeyboardInterrupt):
            join_trainings(settings, host, lambda line: console.print(Text(line), soft_wrap=True))


def _settings(*, writes: bool = False) -> "Settings":
    from tasks.settings import Settings

    with _clear_errors(Console()):
        settings = Settings.from_environment()
        if writes:
            settings.make_home()
    settings.apply()
    return settings


def _resolve(
    preset: str, data: str | None, overrides: list[str] | None, seed: int | None
) -> "ResolvedConfig":
    from flows.configuration import resolve_config

    return resolve_config(preset, data=data, overrides=overrides or (), seed=seed)


def _log_file(settings: "Settings", *words: str) -> Path:
    """Return the path of a new log; its name begins with the time, so that names sort by it."""
    now = datetime.now().astimezone()
    return settings.log_folder / f"{'-'.join([f'{now:%Y%m%d-%H%M%S}', *words])}.log"


@contextmanager
def _clear_errors(console: Console, log: Path | None = None) -> Iterator[None]:
    """Show an error as one message; the traceback is in the log.

    Where no log was begun an error that is not ours is shown with its traceback. No password is
    shown.
    """
    from flows.terminal import error_panel

    try:
        yield
    except SicsrecError as err:
        console.print(error_panel(_title(err), str(err), _noted_in(log, err, console)))
        raise typer.Exit(1) from err
    except typer.Exit:
        raise
    except Exception as err:
        log = _noted_in(log, err, console)
        if isinstance(err, OSError) and err.filename is not None:
            told = without_passwords(
                f"{printable(str(err.filename))}: {err.strerror}. See that it is there and that "
                "whoever runs this may read and write it, or name another place"
            )
            console.print(error_panel("A file or folder cannot be used", told, log))
            raise typer.Exit(1) from err
        if log is None:
            typer.echo(without_passwords(traceback.format_exc()), err=True, nl=False)
            raise typer.Exit(1) from err
        message = without_passwords(f"{type(err).__name__}: {err}")
        console.print(error_panel("An error in sicsrec itself", message, log))
        raise typer.Exit(1) from err
    except KeyboardInterrupt as err:
        _noted_in(log, err, console)
        console.print("Stopped. What was finished is kept; run the same command to go on.")
        raise typer.Exit(130) from err


def _noted_in(log: Path | None, error: BaseException, console: Console) -> Path | None:
    """Add the traceback of an error to a log and return it, None where none was begun."""
    from flows.terminal import logging_to

    if log is None or not os.path.exists(log):  # noqa: PTH110 - Path.exists may raise
        return None
    with suppress(OSError), logging_to(log, console):
        logger.error("the command ended with an error", exc_info=error)
    return log


def _title(error: SicsrecError) -> str:
    titles = {
        "ConfigError": "The configuration cannot be used",
        "NotApplicableError": "The configuration does not suit the data",
        "DataError": "The data cannot be used",
        "ArtifactError": "A stored result cannot be used",
        "ArtifactMissingError": "There is no such result yet",
        "ArtifactCorruptError": "A stored result is damaged",
        "EncoderError": "The encoder cannot be used",
        "BackendUnavailableError": "The judge cannot be reached",
        "MemoryFullError": "The memory is full",
        "TrackingError": "MLflow cannot be reached",
        "TrainingDivergedError": "The training went astray",
        "TrainingProcessError": "A training process died",
        "SharedStoreError": "The shared store cannot be used",
        "LeakageError": "Held-out data would leak",
        "BackendError": "The judge failed",
        "DiskFullError": "The disk is full",
        "SicsrecError": "The command could not be carried out",
    }
    return next(titles[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in titles)
