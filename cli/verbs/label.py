"""`unspoken label` and `unspoken retry`: label captioned pictures with a stack or at a gateway."""

from pathlib import Path
from typing import Annotated

import typer

from cli.checking.paths import check_output_folder
from cli.checking.stack import check_options
from cli.console import PlainConsole
from cli.earlier_run import describe_changes, describe_ended, earlier_run
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
from cli.options import AsJson, GatewayUrl, MovedTo, Quiet, RunName, Workspace
from cli.workspace import (
    DEFAULT_WORKSPACE,
    in_workspace,
    name_of_source,
    run_folder,
    runs_dir,
)
from unspoken.runs.notice import describe_limits
from unspoken.runs.plan import read_plan
from unspoken.runs.store import check_has_failures
from unspoken.wire.label_options import DEFAULT_FALSE_DISCOVERY_RATE
from unspoken.wire.runs import ENDED, RunStatus

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
    workspace: Workspace = DEFAULT_WORKSPACE,
    pictures: Pictures = None,
    url: GatewayUrl = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run (default: made of the source's name).")
    ] = None,
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
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Label captioned pictures as a run of a workspace.

    The same command again resumes an interrupted run. With --url, SOURCE is a path in the gateway's
    data folder.

    Examples:
        unspoken label my-pictures
        unspoken label captions.csv --pictures images --name winter
        unspoken label my-pictures --filter language=de --decoys 8
    """
    quiet = quiet or as_json
    if url:
        there, named = LocalSource(workspace, source, pictures), Path(source)
    else:
        there = local_source(Path(source), pictures=Path(pictures) if pictures else None)
        named = there.data_dir / there.source
    request = run_request(
        context.params,
        source=there.source,
        pictures=there.pictures,
        run_id=name or name_of_source(named),
    )
    if url:
        with gateway_client(url) as client:
            created = client.runs.create(request)
            finish(
                follow_at_gateway(client, created.run_id, url, console, quiet=quiet),
                as_json=as_json,
            )
        return
    check_output_folder(workspace, what="--workspace")
    check_options(request)
    earlier = earlier_run(workspace, there, request)
    if earlier is None:
        there.check()
    if earlier is None or earlier.state not in ENDED:
        if earlier is not None:
            console.print(describe_start(earlier), markup=False)
        config = StackConfig(
            folder=workspace, data_dir=there.data_dir, runs_dir=runs_dir(workspace)
        )
        with running_stack(config, console, quiet=quiet) as stack:
            runs = gateway_client(stack.urls["gateway"]).runs
            created = runs.create(request)
            ended = follow(
                lambda: runs.read(created.run_id), console, each_poll=stack.revive, quiet=quiet
            )
    else:
        ended = earlier
    _finish_here(ended, workspace, as_json=as_json)
    if earlier is not None:
        with console.status(f"comparing {source} with the labelled pictures"):
            changes = list(describe_changes(workspace, ended.run_id, source=source))
        for line in changes:
            console.print(line, soft_wrap=True)


def retry(
    run: RunName,
    *,
    workspace: Workspace = DEFAULT_WORKSPACE,
    moved_to: MovedTo = None,
    url: GatewayUrl = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Label the failed pictures of an ended run again, as a new run.

    Examples:
        unspoken retry my-pictures
    """
    quiet = quiet or as_json
    if url:
        with gateway_client(url) as client:
            created = client.runs.retry_failed(run)
            finish(
                follow_at_gateway(client, created.run_id, url, console, quiet=quiet),
                as_json=as_json,
            )
        return
    run_folder(workspace, run)
    check_has_failures(runs_dir(workspace), run)
    config = StackConfig(
        folder=workspace,
        data_dir=workspace / "data",
        runs_dir=runs_dir(workspace),
        moved_data_dir=moved_to,
    )
    resume = f"run `unspoken up{in_workspace(workspace)}` to resume"
    with running_stack(config, console, resume=resume, quiet=quiet) as stack:
        runs = gateway_client(stack.urls["gateway"]).runs
        created = runs.retry_failed(run)
        ended = follow(
            lambda: runs.read(created.run_id), console, each_poll=stack.revive, quiet=quiet
        )
    _finish_here(ended, workspace, as_json=as_json)


def _finish_here(ended: RunStatus, workspace: Path, *, as_json: bool) -> None:
    """Print the result of a run of this workspace, and how to look at it. Raises Conflict."""
    finish(ended, as_json=as_json, advice=describe_ended(ended, workspace))
    detector = read_plan(run_folder(workspace, ended.run_id)).models["detector"]
    if limits := describe_limits([detector.revision]):
        console.print(limits, soft_wrap=True)
    where = in_workspace(workspace)
    console.print(f"look at the pictures: unspoken report {ended.run_id}{where}", soft_wrap=True)
