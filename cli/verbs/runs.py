"""`unspoken status`, `cancel` and `fork`: commands on runs that exist, which load no models."""

from typing import Annotated

import typer

from cli.checking.paths import check_folder
from cli.options import AsJson, GatewayUrl, RunName, Workspace
from cli.status_view import describe, how_to_resume, opened_runs, show_runs
from cli.workspace import DEFAULT_WORKSPACE, run_folder, runs_dir
from unspoken.errors import Conflict, InvalidInput
from unspoken.runs.store import fork_run


def status(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Name of a run (default: list all runs).")
    ] = None,
    *,
    workspace: Workspace = DEFAULT_WORKSPACE,
    url: GatewayUrl = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the run until it ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the runs of a workspace, or show the progress of one.

    With --json, the output has a line for each run, or with --watch for each change.

    Examples:
        unspoken status
        unspoken status my-pictures --watch
        unspoken status --url http://127.0.0.1:8000
    """
    if watch and run is None:
        raise InvalidInput("--watch needs the name of a run: unspoken status RUN --watch")
    if run is not None and url is None:
        run_folder(workspace, run)
    elif url is None and (workspace.exists() or workspace != DEFAULT_WORKSPACE):
        check_folder(workspace, what="--workspace")
    with opened_runs(url, runs_dir(workspace)) as source:
        show_runs(source, run, watch=watch, as_json=as_json, resume=how_to_resume(url, workspace))


def cancel(
    run: RunName,
    *,
    workspace: Workspace = DEFAULT_WORKSPACE,
    url: GatewayUrl = None,
) -> None:
    """Stop a run. Pictures that are labelled already are kept.

    Examples:
        unspoken cancel my-pictures
    """
    if url is None:
        run_folder(workspace, run)
    with opened_runs(url, runs_dir(workspace)) as runs:
        ended = runs.cancel(run)
    typer.echo(describe(ended))
    if ended.state != "cancelled":
        raise Conflict(f"run {run!r} is {ended.state}: there is nothing to cancel")


def fork(
    run: RunName,
    *,
    workspace: Workspace = DEFAULT_WORKSPACE,
    url: GatewayUrl = None,
) -> None:
    """Start a run again under a new name, with the models and prompts served now.

    The first run is not changed. `unspoken up`, or `unspoken label` in the same workspace,
    processes the new run.

    Examples:
        unspoken fork my-pictures
    """
    if url:
        # Imported here, because only a gateway needs httpx.
        from cli.gateway import gateway_client

        with gateway_client(url, max_attempts=1) as client:
            created = client.runs.fork(run)
    else:
        run_folder(workspace, run)
        created = fork_run(runs_dir(workspace), run)
    typer.echo(f"{created.run_id} is queued")
