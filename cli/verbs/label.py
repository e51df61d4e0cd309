"""`unspoken label` and `unspoken retry`: label captioned pictures with a stack or at a gateway."""

from pathlib import Path
from typing import Annotated

import typer

from cli.console import PlainConsole
from cli.gateway import gateway_client
from cli.label_options import DEFAULTS, flag_of, run_request
from cli.labelling import (
    LocalSource,
    describe_start,
    finish,
    follow,
    follow_at_gateway,
    local_source,
    running_stack,
)
from cli.local.launcher import StackConfig
from cli.options import Folder, GatewayUrl, MovedData
from cli.workspace import describe_changes, describe_ended, earlier_run
from unspoken.runs.store import check_has_failures
from unspoken.wire.label_options import DEFAULT_FALSE_DISCOVERY_RATE
from unspoken.wire.runs import ENDED

console = PlainConsole(stderr=True)

Pictures = Annotated[
    str | None,
    typer.Option(
        help="Folder that a table's picture paths are relative to (default: the table's folder)."
    ),
]


def label(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="Tar shards, a folder of pictures with captions, or a table.")
    ],
    *,
    out: Annotated[Path, typer.Option(help="Workspace folder to write the run to.")],
    pictures: Pictures = None,
    url: GatewayUrl = None,
    name: Annotated[str, typer.Option(help="The run's name in the workspace.")] = "labels",
    box_threshold: Annotated[
        str | None,
        typer.Option(
            help="Minimum score of named labels, or 'auto': choose one per source by decoys."
        ),
    ] = None,
    false_discovery_rate: Annotated[
        float | None,
        typer.Option(
            flag_of("false_discovery_rate"),
            help="With --box-threshold auto: maximum estimated false-discovery rate "
            f"(default: {DEFAULT_FALSE_DISCOVERY_RATE}).",
        ),
    ] = None,
    templates: Annotated[
        list[str] | None,
        typer.Option(
            flag_of("templates"),
            help="Prompt template; may be repeated (default: those of the llm service).",
        ),
    ] = None,
    single_template_margin: Annotated[
        float,
        typer.Option(help="Extra score required of implied labels that one template proposed."),
    ] = DEFAULTS.single_template_margin,
    crop_check: Annotated[
        bool,
        typer.Option(
            flag_of("crop_check"),
            help="Drop boxes whose content does not match their label, by CLIP (not in small).",
        ),
    ] = DEFAULTS.crop_check,
    num_decoys: Annotated[
        int, typer.Option(flag_of("num_decoys"), help="Number of decoy phrases per picture.")
    ] = DEFAULTS.num_decoys,
    chunk_size: Annotated[int, typer.Option(help="Pictures per chunk.")] = DEFAULTS.chunk_size,
    filters: Annotated[
        list[str] | None,
        typer.Option(flag_of("filters"), help="NAME=VALUE or NAME=off; may be repeated."),
    ] = None,
    blocklist: Annotated[
        Path | None, typer.Option(help="File of words that exclude a caption, one per line.")
    ] = None,
) -> None:
    """Label captioned pictures. Run the same command again to resume an interrupted run."""
    there = LocalSource(out, source, pictures) if url else _local(source, pictures)
    request = run_request(context.params, source=there.source, pictures=there.pictures, run_id=name)
    if url:
        with gateway_client(url) as client:
            created = client.runs.create(request)
            finish(follow_at_gateway(client, created.run_id, url, console))
        return
    earlier = earlier_run(out, there, request)
    if earlier is None or earlier.state not in ENDED:
        if earlier is not None:
            console.print(describe_start(earlier), markup=False)
        config = StackConfig(folder=out, data_dir=there.data_dir, runs_dir=out / "runs")
        with running_stack(config, console) as stack:
            runs = gateway_client(stack.urls["gateway"]).runs
            created = runs.create(request)
            ended = follow(lambda: runs.read(created.run_id), console, each_poll=stack.revive)
    else:
        ended = earlier
    finish(ended, advice=describe_ended(ended, out))
    if earlier is not None:
        with console.status(f"comparing {source} with the labelled pictures"):
            changes = list(describe_changes(out, name, source=source))
        for line in changes:
            typer.echo(line)


def retry(
    run: Annotated[str, typer.Argument(help="Name of a run that has ended.")],
    *,
    folder: Folder = Path("unspoken-data"),
    data: MovedData = None,
    url: GatewayUrl = None,
) -> None:
    """Label the failed pictures of a run again, as a new run."""
    if url:
        with gateway_client(url) as client:
            created = client.runs.retry_failed(run)
            finish(follow_at_gateway(client, created.run_id, url, console))
        return
    check_has_failures(folder / "runs", run)
    config = StackConfig(
        folder=folder, data_dir=folder / "data", runs_dir=folder / "runs", moved_data_dir=data
    )
    resume = f"run `unspoken up --dir {folder}` to resume"
    with running_stack(config, console, resume=resume) as stack:
        runs = gateway_client(stack.urls["gateway"]).runs
        created = runs.retry_failed(run)
        finish(follow(lambda: runs.read(created.run_id), console, each_poll=stack.revive))


def _local(source: str, pictures: str | None) -> LocalSource:
    return local_source(Path(source), pictures=Path(pictures) if pictures else None)
