"""What ``sicsrec serve`` says before it carries out runs."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.deployments import DEPLOYMENTS
from flows.terminal import new_table
from sicsrec.addresses import without_password


def deployments_table(schedules: Mapping[str, str], timezone: str) -> Table:
    """Return what each deployment does, and when.

    Args:
        schedules: name of a deployment to its cron schedule.
        timezone: of the schedules.
    """
    table = new_table()
    table.add_column("deployment", no_wrap=True)
    table.add_column("what it does", overflow="fold")
    for entry in DEPLOYMENTS:
        words = Text(entry.summary)
        if entry.name in schedules:
            words.append(f" At {schedules[entry.name]} ({timezone}).", style="cyan")
        table.add_row(entry.full_name, words)
    return table


def print_how_to_run(api_url: str, page: str | None, console: Console) -> None:
    """Say where the page is and how a run is started; the password of a server stays out.

    Args:
        api_url: of the server.
        page: where a browser finds it; None: beside the API.
        console: to print to.
    """
    api_url = without_password(api_url)
    page = page or api_url.removesuffix("/api")
    console.print(
        Text(f"Prefect's page: {page}/deployments\n"),
        Text("A run, in another terminal, or with the button of the page:\n"),
        Text(f"  export PREFECT_API_URL={api_url}\n"),
        Text("  prefect deployment run sicsrec/full-pipeline --watch\n"),
        sep="",
        soft_wrap=True,
    )
