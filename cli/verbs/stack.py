"""`unspoken demo` and `unspoken up`: run the whole stack on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from cli.checking.paths import check_output_folder
from cli.console import PlainConsole
from cli.demo.demo import run_demo
from cli.demo.photographs import label_photographs
from cli.labelling import describe_start, running_stack
from cli.local.launcher import DRAIN_S, StackConfig
from cli.options import MovedTo, Workspace
from cli.workspace import DEFAULT_WORKSPACE, runs_dir
from unspoken.config.services import (
    GATEWAY,
    HIGHEST_GATEWAY_PORT,
    METRICS_PORT,
    port_by_service,
)
from unspoken.runs.store import list_runs
from unspoken.wire.runs import ENDED
from worker.process.broker import check_broker_answers
from worker.process.broker_url import check_broker_url

console = PlainConsole(stderr=True)


def demo(
    *,
    out: Annotated[
        Path, typer.Option(help="Output folder: new, or of an earlier demo, which is replaced.")
    ] = Path("demo-out"),
    images: Annotated[int, typer.Option(min=1, max=10_000, help="Number of pictures.")] = 48,
    seed: Annotated[int, typer.Option(help="Seed of the scenes; training used others.")] = 7001,
    exit_: Annotated[bool, typer.Option("--exit", help="Exit when the dataset is done.")] = False,
    photographs: Annotated[
        bool,
        typer.Option(
            "--photographs",
            help="Label eight photographs by the models of the profile base instead.",
        ),
    ] = False,
) -> None:
    """Compose captioned pictures, label them, and show the results.

    The output folder is a workspace: other commands read it with --workspace.

    Examples:
        unspoken demo --exit
        unspoken demo --photographs --out photographs-out
        unspoken status --workspace demo-out
    """
    check_output_folder(out)
    if photographs:
        label_photographs(out, stay=not exit_, console=console)
        return
    run_demo(out, num_images=images, seed=seed, stay=not exit_, console=console)


def up(
    *,
    workspace: Workspace = DEFAULT_WORKSPACE,
    port: Annotated[
        int,
        typer.Option(
            min=1, max=HIGHEST_GATEWAY_PORT, help="Port of the gateway; others use the next ones."
        ),
    ] = GATEWAY.port,
    workers: Annotated[int, typer.Option(min=1, help="Number of chunks processed at once.")] = 2,
    broker_url: Annotated[str | None, typer.Option(help="URL of a running Redis.")] = None,
    moved_to: MovedTo = None,
) -> None:
    """Run all services, the dispatcher and a worker on this machine until Ctrl-C.

    Runs of the workspace that have not ended are resumed.

    Examples:
        unspoken up
        unspoken up --port 9000 --workspace work
    """
    if broker_url is not None:
        check_broker_url(broker_url, name="--broker-url")
        check_broker_answers(broker_url, name="--broker-url")
    check_output_folder(workspace, what="--workspace")
    config = StackConfig(
        folder=workspace,
        data_dir=workspace / "data",
        runs_dir=runs_dir(workspace),
        moved_data_dir=moved_to,
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
