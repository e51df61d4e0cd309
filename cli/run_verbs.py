"""`unspoken verify` and `unspoken fork`: check a run's files, or start a new run like it."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cli.connecting import Folder, GatewayUrl, gateway_client
from cli.console import say
from unspoken.runs.dataset.verify import CheckSource, verify_run
from unspoken.runs.location import locate_source
from unspoken.runs.store import fork_run, read_run
from worker.sources.intake import check_chunk

MovedData = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder that now contains the runs' sources, if they were moved.",
        exists=True,
        file_okay=False,
    ),
]


def verify(
    run: Annotated[str, typer.Argument(help="Name of a run in a local workspace.")],
    *,
    folder: Folder = Path("unspoken-data"),
    source: Annotated[
        bool, typer.Option("--source", help="Also read the run's source and check its hashes.")
    ] = False,
    data: MovedData = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check the hashes of a run's plan, records and shards; exit code 1 if any is wrong."""
    runs_dir = folder / "runs"
    check = _source_check(runs_dir, run, data) if source or data else None
    verdict = verify_run(runs_dir, run, check_source=check)
    if as_json:
        typer.echo(verdict.model_dump_json())
    else:
        for problem in verdict.problems:
            say(problem)
        files = "source, plan" if verdict.source_checked else "plan"
        typer.echo(
            f"{verdict.run_id}: {verdict.state}, {verdict.chunks_committed} of "
            f"{verdict.chunks_total} chunks committed with {verdict.rows} rows; {files}, records "
            + ("and shards are valid" if verdict.is_valid else "or shards are damaged, see above")
        )
    if not verdict.is_valid:
        raise typer.Exit(1)


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
        with gateway_client(url, max_attempts=1) as client:
            created = client.runs.fork(run)
    else:
        created = fork_run(folder / "runs", run)
    typer.echo(f"{created.run_id} is queued")


def _source_check(runs_dir: Path, run_id: str, data: Path | None) -> CheckSource:
    location = locate_source(read_run(runs_dir, run_id), runs_dir=runs_dir, data_dir=data)
    location.check_present()
    return partial(check_chunk, root=location.root, pictures=location.pictures)
