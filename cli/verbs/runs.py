"""`unspoken status`, `cancel` and `fork`: commands on runs that exist, which load no models."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Folder, GatewayUrl
from cli.status_view import describe, how_to_resume, opened_runs, show_runs
from unspoken.errors import Conflict, InvalidInput
from unspoken.runs.store import fork_run


def status(
    run: Annotated[str | None, typer.Argument(help="Name of a run (default: all runs).")] = None,
    *,
    folder: Folder = Path("unspoken-data"),
    url: GatewayUrl = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the run until it ends.")] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one line of JSON per run, or with --watch per change."),
    ] = False,
) -> None:
    """Show the progress of runs in a workspace on this machine, or of a gateway's runs."""
    if watch and run is None:
        raise InvalidInput("--watch needs the name of a run: unspoken status RUN --watch")
    with opened_runs(url, folder / "runs") as source:
        show_runs(source, run, watch=watch, as_json=as_json, resume=how_to_resume(url, folder))


def cancel(
    run: Annotated[str, typer.Argument(help="Name of a run that has not ended.")],
    *,
    folder: Folder = Path("unspoken-data"),
    url: GatewayUrl = None,
) -> None:
    """Cancel a run: no further chunk is started, and committed chunks are kept."""
    with opened_runs(url, folder / "runs") as runs:
        ended = runs.cancel(run)
    typer.echo(describe(ended))
    if ended.state != "cancelled":
        raise Conflict(f"run {run!r} is {ended.state}: there is nothing to cancel")


def fork(
    run: Annotated[str, typer.Argument(help="Name of a run, ended or not.")],
    *,
    folder: Folder = Path("unspoken-data"),
    url: GatewayUrl = None,
) -> None:
    """Queue a new run with the same request, labelled by the models and prompts served now.

    The first run is not changed. Run `unspoken label` or `unspoken up` on the workspace to process
    the new run.
    """
    if url:
        # Imported here, because only a gateway needs httpx.
        from cli.gateway import gateway_client

        with gateway_client(url, max_attempts=1) as client:
            created = client.runs.fork(run)
    else:
        created = fork_run(folder / "runs", run)
    typer.echo(f"{created.run_id} is queued")
