"""`unspoken verify` and `unspoken fork`: whether a run is what it says, and a new one like it."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from stack.client_key import client_key
from stack.console import say
from unspoken.clients import Client, Retries
from unspoken.errors import Conflict
from unspoken.runs.store import fork_run, picture_folder, read_run, source_root
from unspoken.runs.verify import CheckSource, verify_run
from worker.intake import read_chunk

Folder = Annotated[Path, typer.Option("--dir", help="Workspace folder: data, runs, logs.")]


def verify(
    run: Annotated[str, typer.Argument(help="A run of a workspace on this machine.")],
    *,
    folder: Folder = Path("unspoken-data"),
    data: Annotated[
        Path | None,
        typer.Option(help="The run's data folder: its source is then read and hashed, too."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Read plan, records and shards of a run and hash them again; exit code 1 if any is wrong."""
    runs_dir = folder / "runs"
    verdict = verify_run(runs_dir, run, check_source=_source_check(runs_dir, run, data))
    if as_json:
        typer.echo(verdict.model_dump_json())
    else:
        for problem in verdict.problems:
            say(problem)
        source = "source, plan" if verdict.source_checked else "plan"
        typer.echo(
            f"{verdict.run_id}: {verdict.state}, {verdict.chunks_committed} of "
            f"{verdict.chunks_total} chunks committed with {verdict.rows} rows; {source}, records "
            + ("and shards are right" if verdict.is_right else "or shards are wrong, see above")
        )
    if not verdict.is_right:
        raise typer.Exit(1)


def fork(
    run: Annotated[str, typer.Argument(help="A run, ended or not.")],
    *,
    folder: Folder = Path("unspoken-data"),
    url: Annotated[str | None, typer.Option("--url", help="Gateway of a stack that runs.")] = None,
) -> None:
    """Queue a new run that asks the same, with the models and prompts that are served now.

    The first run stays as it is. `unspoken label` or `unspoken up` on the workspace works it off.
    """
    if url:
        with Client(
            url, api_key=client_key().get_secret_value(), retries=Retries(tries=1)
        ) as client:
            created = client.runs.fork(run)
    else:
        created = fork_run(folder / "runs", run)
    typer.echo(f"{created.run_id} is queued")


def _source_check(runs_dir: Path, run_id: str, data: Path | None) -> CheckSource | None:
    run = read_run(runs_dir, run_id)
    if data is None and run.source is not None:
        return None
    data_dir = data or runs_dir
    if run.source is not None and not (data_dir / run.source).exists():
        raise Conflict(f"{data_dir} does not hold the run's source {run.source!r}")
    return partial(
        read_chunk,
        root=source_root(data_dir, runs_dir, run),
        pictures=picture_folder(data_dir, run),
    )
