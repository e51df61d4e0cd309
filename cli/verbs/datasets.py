"""`unspoken report`, `export` and `verify`: read the dataset of a run."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cli.console import PlainConsole, say
from cli.options import AsJson, MovedTo, Quiet, RunName, Workspace
from cli.progress import shown_progress
from cli.workspace import DEFAULT_WORKSPACE, run_folder, runs_dir
from unspoken.progress import Progress
from unspoken.runs.dataset.verify import CheckSource, verify_run
from unspoken.runs.exports.coco import export_coco
from unspoken.runs.exports.hugging_face import export_hugging_face
from unspoken.runs.exports.label_studio import export_label_studio
from unspoken.runs.exports.report import PAGE_FILE, write_report
from unspoken.runs.exports.source import missing_pictures
from unspoken.runs.exports.webdataset import export_webdataset
from unspoken.runs.location import locate_source
from unspoken.runs.store import read_run
from worker.sources.intake import check_chunk

export_app = typer.Typer(no_args_is_help=True, add_completion=False)
console = PlainConsole(stderr=True)

OutFolder = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Output folder, new or empty.")
]


def report(
    run: RunName,
    *,
    workspace: Workspace = DEFAULT_WORKSPACE,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Output folder, new or empty (default: the run's own, report/)."
        ),
    ] = None,
    moved_to: MovedTo = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a page to look through the labelled pictures, with filters by label and score.

    Examples:
        unspoken report my-pictures
        unspoken report demo --workspace demo-out
    """
    run_dir = run_folder(workspace, run)
    page_dir = run_dir / "report" if out is None else out
    if out is None:
        # The folder in the run is ours: a new report replaces the one before.
        shutil.rmtree(page_dir, ignore_errors=True)
    _write(
        run_dir,
        page_dir / PAGE_FILE,
        lambda progress: write_report(run_dir, page_dir, pictures=moved_to, progress=progress),
        as_json=as_json,
        quiet=quiet,
    )


@export_app.callback()
def export() -> None:
    """Write the dataset of a run in the format of another tool.

    Examples:
        unspoken export coco my-pictures --out my-pictures.json
        unspoken export hugging-face my-pictures --out my-pictures-hf
    """


@export_app.command("coco")
def coco(
    run: RunName,
    *,
    workspace: Workspace = DEFAULT_WORKSPACE,
    out: Annotated[Path, typer.Option(metavar="FILE", help="JSON file to write.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write kept boxes as COCO instances JSON; pictures are not copied."""
    run_dir = run_folder(workspace, run)
    _write(
        run_dir,
        out,
        lambda progress: export_coco(run_dir, out, progress=progress),
        as_json=as_json,
        quiet=quiet,
    )


@export_app.command("webdataset")
def webdataset(
    run: RunName,
    *,
    workspace: Workspace = DEFAULT_WORKSPACE,
    out: OutFolder,
    moved_to: MovedTo = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write tar shards of pictures, captions and annotations for WebDataset."""
    run_dir = run_folder(workspace, run)
    _write(
        run_dir,
        out,
        lambda progress: export_webdataset(run_dir, out, pictures=moved_to, progress=progress),
        as_json=as_json,
        quiet=quiet,
    )


@export_app.command("hugging-face")
def hugging_face(
    run: RunName,
    *,
    workspace: Workspace = DEFAULT_WORKSPACE,
    out: OutFolder,
    moved_to: MovedTo = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write parquet files that contain the pictures, for datasets.load_dataset."""
    run_dir = run_folder(workspace, run)
    _write(
        run_dir,
        out,
        lambda progress: export_hugging_face(run_dir, out, pictures=moved_to, progress=progress),
        as_json=as_json,
        quiet=quiet,
    )


@export_app.command("label-studio")
def label_studio(
    run: RunName,
    *,
    workspace: Workspace = DEFAULT_WORKSPACE,
    out: OutFolder,
    moved_to: MovedTo = None,
    url_prefix: Annotated[
        str | None,
        typer.Option(
            help="URL of OUT/pictures. The default is Label Studio's local storage, with the "
            "folder that contains OUT as its document root."
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write pictures, Label Studio tasks with boxes as predictions, and a labelling config."""
    run_dir = run_folder(workspace, run)
    _write(
        run_dir,
        out,
        lambda progress: export_label_studio(
            run_dir, out, pictures=moved_to, url_prefix=url_prefix, progress=progress
        ),
        as_json=as_json,
        quiet=quiet,
    )


def verify(
    run: RunName,
    *,
    workspace: Workspace = DEFAULT_WORKSPACE,
    source: Annotated[
        bool, typer.Option("--source", help="Also read the run's source and check its hashes.")
    ] = False,
    moved_to: MovedTo = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Read everything that a run wrote and check its hashes; exit code 1 if any is wrong.

    Examples:
        unspoken verify my-pictures
        unspoken verify my-pictures --source
    """
    run_folder(workspace, run)
    folder = runs_dir(workspace)
    check = _source_check(folder, run, moved_to) if source or moved_to else None
    verdict = verify_run(
        folder,
        run,
        check_source=check,
        progress=shown_progress(console, quiet=quiet or as_json),
    )
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


def _source_check(folder: Path, run_id: str, data: Path | None) -> CheckSource:
    location = locate_source(read_run(folder, run_id), runs_dir=folder, data_dir=data)
    location.check_present()
    return partial(check_chunk, root=location.root, pictures=location.pictures)


def _write(
    run_dir: Path,
    out: Path,
    write: Callable[[Progress], dict[str, int]],
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write an export and print its counts; warn of pictures that the run has not labelled."""
    missing = missing_pictures(run_dir)
    if missing:
        console.print(f"warning: {missing}", soft_wrap=True)
    written = write(shown_progress(console, quiet=quiet or as_json))
    if as_json:
        whole = {"run": run_dir.name, "out": str(out), "complete": not missing, "counts": written}
        typer.echo(json.dumps(whole))
    else:
        numbers = ", ".join(_counted(number, what) for what, number in written.items())
        typer.echo(f"wrote {out}: {numbers}")


def _counted(number: int, things: str) -> str:
    """Return `2 shards`, or `1 shard`."""
    if number == 1:
        things = things.removesuffix("s") if not things.endswith("ies") else things[:-3] + "y"
    return f"{number} {things}"
