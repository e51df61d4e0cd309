"""The command line: `unspoken COMMAND`. An error prints one line with advice and exits with 1 or 2.

Exit code 2 stands for invalid input.
"""

import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

from cli.connecting import Folder, GatewayUrl, SegmenterUrl, gateway_client, open_segmenter
from cli.console import PlainConsole, print_error, say
from cli.demo.demo import run_demo
from cli.embedding import embed
from cli.experiment_verbs import reproduce_app
from cli.export_verbs import export_app, report
from cli.label_options import DEFAULTS, flag_of, run_request
from cli.labelling import LocalSource, describe, follow, local_source, running_stack
from cli.local.launcher import DRAIN_S, StackConfig
from cli.run_verbs import MovedData, fork, verify
from cli.segmenting import describe_reply, segment_file
from cli.settings_table import settings_table
from cli.status_view import how_to_resume, opened_runs, show_runs
from cli.training_verbs import PASS_ON, run_evaluate, run_train
from cli.workspace import describe_changes, describe_ended, describe_start, earlier_run
from unspoken.client import Client
from unspoken.config.api_keys import key_sha256, new_key, parse_keys
from unspoken.config.profiles import load_profile
from unspoken.config.services import (
    GATEWAY,
    HIGHEST_GATEWAY_PORT,
    METRICS_PORT,
    port_by_service,
)
from unspoken.config.weights import FetchProgress, WeightsSettings, fetch_profile
from unspoken.errors import Conflict, InvalidInput, UnspokenError
from unspoken.logs import configure_logging
from unspoken.runs.store import check_has_failures, list_runs
from unspoken.safe_text import redact
from unspoken.wire.label_options import DEFAULT_FALSE_DISCOVERY_RATE
from unspoken.wire.runs import ENDED, RunStatus
from unspoken.wire.segment import Method
from worker.process.broker_url import check_broker_url

app = typer.Typer(
    help="Build object-detection datasets from captioned pictures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
weights_app = typer.Typer(help="Weights of the profiles in models.yaml.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")
app.add_typer(export_app, name="export")
app.add_typer(reproduce_app, name="reproduce")
app.command("report")(report)
app.command("verify")(verify)
app.command("fork")(fork)
app.command("embed")(embed)

console = PlainConsole(stderr=True)

Pictures = Annotated[
    str | None,
    typer.Option(
        help="Folder that a table's picture paths are relative to (default: the table's folder)."
    ),
]


class Style(StrEnum):
    """Art styles of the small world."""

    twemoji = "twemoji"
    fluent = "fluent"
    noto = "noto"


@app.command()
def demo(
    *,
    out: Annotated[
        Path, typer.Option(help="Output folder: new, or of an earlier demo, which is replaced.")
    ] = Path("demo-out"),
    images: Annotated[int, typer.Option(min=1, max=10_000)] = 48,
    seed: Annotated[int, typer.Option(help="Seed of the scenes; training used others.")] = 7001,
    exit_: Annotated[bool, typer.Option("--exit", help="Exit when the dataset is done.")] = False,
) -> None:
    """Compose captioned pictures, label them with the whole stack, and show the results."""
    run_demo(out, num_images=images, seed=seed, stay=not exit_, console=console)


@app.command()
def up(
    *,
    folder: Folder = Path("unspoken-data"),
    port: Annotated[
        int,
        typer.Option(
            min=1, max=HIGHEST_GATEWAY_PORT, help="Port of the gateway; others use the next ones."
        ),
    ] = GATEWAY.port,
    workers: Annotated[int, typer.Option(min=1, help="Number of chunks processed at once.")] = 2,
    broker_url: Annotated[str | None, typer.Option(help="URL of a running Redis.")] = None,
    data: MovedData = None,
) -> None:
    """Run all services, the dispatcher and a worker on this machine until Ctrl-C."""
    if broker_url is not None:
        check_broker_url(broker_url, name="--broker-url")
    config = StackConfig(
        folder=folder,
        data_dir=folder / "data",
        runs_dir=folder / "runs",
        moved_data_dir=data,
        port_by_service=port_by_service(port),
        broker_url=broker_url,
        worker_concurrency=workers,
        metrics_port=port + METRICS_PORT - GATEWAY.port,
        services_stop_s=DRAIN_S,
    )
    resume = "runs resume at the next `unspoken up`; press Ctrl-C again to stop at once"
    with running_stack(config, console, resume=resume) as stack:
        console.print(f"open {stack.urls[GATEWAY.name]}/ to see the services, their API and runs")
        console.print(f"data folder {config.data_dir}; runs in {config.runs_dir}; Ctrl-C to stop")
        for each in list_runs(config.runs_dir):
            if each.state not in ENDED:
                console.print(describe_start(each), markup=False)
        stack.watch()


@app.command()
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
            _finish(_follow_there(client, created.run_id, url))
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
    _finish(ended, advice=describe_ended(ended, out))
    if earlier is not None:
        with console.status(f"comparing {source} with the labelled pictures"):
            changes = list(describe_changes(out, name, source=source))
        for line in changes:
            typer.echo(line)


@app.command()
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


@app.command()
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


@app.command()
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
            _finish(_follow_there(client, created.run_id, url))
        return
    check_has_failures(folder / "runs", run)
    config = StackConfig(
        folder=folder, data_dir=folder / "data", runs_dir=folder / "runs", moved_data_dir=data
    )
    resume = f"run `unspoken up --dir {folder}` to resume"
    with running_stack(config, console, resume=resume) as stack:
        runs = gateway_client(stack.urls["gateway"]).runs
        created = runs.retry_failed(run)
        _finish(follow(lambda: runs.read(created.run_id), console, each_poll=stack.revive))


@app.command()
def segment(
    image: Annotated[Path, typer.Argument(help="Picture file: JPEG, PNG or WEBP.")],
    texts: Annotated[list[str], typer.Argument(help="Texts to search for.")],
    *,
    url: SegmenterUrl = None,
    out: Annotated[Path, typer.Option(help="Folder for the overlay and the JSON.")] = Path(),
    method: Annotated[
        Method, typer.Option(help="Query method; auto uses the detector if there is one.")
    ] = "auto",
    threshold: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    top_k: Annotated[
        int, typer.Option(min=1, max=1000, help="Maximum number of masks per text.")
    ] = 20,
) -> None:
    """Segment what texts name in a picture; write an overlay of the masks and a JSON reply."""
    with open_segmenter(url) as segmenter:
        reply = segment_file(
            image,
            texts,
            out=out,
            segmenter=segmenter,
            method=method,
            threshold=threshold,
            top_k=top_k,
        )
    for line in describe_reply(reply):
        say(line)
    typer.echo(f"wrote {out / image.stem}-masks.png and {out / image.stem}-masks.json")


@app.command()
def world(
    *,
    out: Annotated[Path, typer.Option(help="New or empty folder.")],
    scenes: Annotated[int, typer.Option(min=1)] = 1000,
    seed: Annotated[int, typer.Option()] = 0,
    unlabelled: Annotated[
        int | None, typer.Option(min=0, help="Pictures of the SA-1B folder (default: scenes / 4).")
    ] = None,
    styles: Annotated[list[Style] | None, typer.Option("--style", help="May be repeated.")] = None,
) -> None:
    """Write a small world: img2dataset shards, an SA-1B folder, and a contact sheet."""
    # Imported here, because only this command needs the art packages.
    from smallworld.shards import write_world

    chosen = tuple(str(style) for style in styles or (Style.twemoji, Style.fluent))
    with console.status(f"composing {scenes} scenes"):
        tars = write_world(out, num_scenes=scenes, seed=seed, num_sa1b=unlabelled, styles=chosen)
    typer.echo(f"wrote {len(tars)} shards to {out / 'shards'} and {out / 'contact-sheet.jpg'}")


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Name of the key's owner, for the logs.")],
    *,
    per_minute: Annotated[
        int | None, typer.Option(min=0, help="Requests per minute; 0 for no limit.")
    ] = None,
) -> None:
    """Create an API key. It is shown only once, because services store only its digest."""
    made = new_key()
    entry = f"{name}:{key_sha256(made)}" + ("" if per_minute is None else f":{per_minute}")
    parse_keys(entry, requests_per_minute=0)
    typer.echo(f"UNSPOKEN_CLIENT_KEY={made}      # for clients")
    typer.echo(f"UNSPOKEN_API_KEYS={entry}      # for services; separate several keys by spaces")


@app.command("settings")
def print_settings() -> None:
    """Print all settings of all processes with their defaults."""
    typer.echo(settings_table(), nl=False)


@weights_app.command("fetch")
def fetch_weights(
    profile: Annotated[str, typer.Argument(help="Profile of models.yaml: small, base or thesis.")],
) -> None:
    """Download a profile's model files and check their hashes; services never download files."""
    settings = WeightsSettings()
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        console=console,
    ) as progress:
        bars: dict[str, TaskID] = {}

        def show(now: FetchProgress) -> None:
            if now.file not in bars:
                bars[now.file] = progress.add_task(now.file, total=now.num_bytes)
            progress.update(bars[now.file], completed=now.received_bytes)

        report = fetch_profile(
            load_profile(profile, models_file=settings.models_file),
            cache_dir=settings.cache_dir,
            hub_url=settings.hub_url,
            on_progress=show,
        )
    typer.echo(
        f"profile {profile}: {len(report.fetched)} files fetched, "
        f"{len(report.present)} already present; all hashes match"
    )


@app.command("train", context_settings=PASS_ON, add_help_option=False)
def train_command(context: typer.Context) -> None:
    """Train Semantic-SAM by a recipe, or the small detector (`train detector`). See --help."""
    run_train(context.args)


@app.command("evaluate", context_settings=PASS_ON, add_help_option=False)
def evaluate_command(context: typer.Context) -> None:
    """Evaluate a Semantic-SAM: names, masks, quality kept from SAM, and text queries."""
    run_evaluate(context.args)


def _local(source: str, pictures: str | None) -> LocalSource:
    return local_source(Path(source), pictures=Path(pictures) if pictures else None)


def _follow_there(client: Client, run_id: str, url: str) -> RunStatus:
    """Follow a run at a gateway, where it also continues without this command."""
    try:
        return follow(lambda: client.runs.read(run_id), console)
    except KeyboardInterrupt:
        console.print(
            "the run continues at the gateway; to follow it, run "
            f"`unspoken status {run_id} --url {redact(url)} --watch`",
            markup=False,
            soft_wrap=True,
        )
        raise


def _finish(ended: RunStatus, *, advice: str | None = None) -> None:
    typer.echo(describe(ended))
    typer.echo(f"dataset: {ended.output}")
    if ended.state != "done":
        why = ended.message or ("see the dispatcher log" if ended.state == "failed" else "")
        told = f"the run is {ended.state}" + (f": {why}" if why else "")
        raise Conflict(f"{told}; {advice}" if advice else told)


def main() -> None:
    """Run the command line."""
    configure_logging("WARNING", "text", layout="%(levelname)s %(message)s")
    # Graceful shutdown at SIGTERM as at Ctrl-C: the stack's processes are stopped in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        app()
    except KeyboardInterrupt:
        console.print("stopped")
        sys.exit(130)
    except UnspokenError as error:
        print_error(console, error)
        sys.exit(2 if isinstance(error, InvalidInput) else 1)
    except OSError as error:
        # A full disk or a folder without permission is not a bug: the user can repair it.
        print_error(
            console, InvalidInput(f"{error.filename or 'a file'}: {error.strerror or error}")
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
