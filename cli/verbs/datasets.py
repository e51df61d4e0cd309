"""`unspoken export`, `report` and `verify`: read the dataset of a run."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cli.console import say
from cli.options import Folder, MovedData
from unspoken.runs.dataset.verify import CheckSource, verify_run
from unspoken.runs.exports.coco import export_coco
from unspoken.runs.exports.hugging_face import export_hugging_face
from unspoken.runs.exports.label_studio import export_label_studio
from unspoken.runs.exports.report import PAGE_FILE, write_report
from unspoken.runs.exports.webdataset import export_webdataset
from unspoken.runs.location import locate_source
from unspoken.runs.store import read_run
from worker.sources.intake import check_chunk

export_app = typer.Typer(no_args_is_help=True)

Run = Annotated[Path, typer.Argument(help="Run folder or its dataset folder.")]
OutFolder = Annotated[Path, typer.Option(help="Output folder, new or empty.")]
Pictures = Annotated[
    Path | None,
    typer.Option(
        help="Folder that now contains the labelled pictures, if they were moved since the run."
    ),
]


@export_app.callback()
def export() -> None:
    """Export datasets in the formats of other tools."""


@export_app.command("coco")
def coco(run: Run, *, out: Annotated[Path, typer.Option(help="JSON file to write.")]) -> None:
    """Write kept boxes as COCO instances JSON; pictures are not copied."""
    _tell(out, export_coco(run, out))


@export_app.command("webdataset")
def webdataset(run: Run, *, out: OutFolder, pictures: Pictures = None) -> None:
    """Write tar shards of pictures, captions and annotations for WebDataset."""
    _tell(out, export_webdataset(run, out, pictures=pictures))


@export_app.command("hugging-face")
def hugging_face(run: Run, *, out: OutFolder, pictures: Pictures = None) -> None:
    """Write parquet files that contain the pictures, for datasets.load_dataset."""
    _tell(out, export_hugging_face(run, out, pictures=pictures))


@export_app.command("label-studio")
def label_studio(
    run: Run,
    *,
    out: OutFolder,
    pictures: Pictures = None,
    url_prefix: Annotated[
        str | None,
        typer.Option(
            help="URL of OUT/pictures. The default is Label Studio's local storage, with the "
            "folder that contains OUT as its document root."
        ),
    ] = None,
) -> None:
    """Write pictures, Label Studio tasks with boxes as predictions, and a labelling config."""
    _tell(out, export_label_studio(run, out, pictures=pictures, url_prefix=url_prefix))


def report(run: Run, *, out: OutFolder, pictures: Pictures = None) -> None:
    """Write a page of the labelled pictures, with filters by label, source, score and kind."""
    counts = write_report(run, out, pictures=pictures)
    _tell(out / PAGE_FILE, counts)


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


def _source_check(runs_dir: Path, run_id: str, data: Path | None) -> CheckSource:
    location = locate_source(read_run(runs_dir, run_id), runs_dir=runs_dir, data_dir=data)
    location.check_present()
    return partial(check_chunk, root=location.root, pictures=location.pictures)


def _tell(out: Path, written: dict[str, int]) -> None:
    numbers = ", ".join(f"{number} {what}" for what, number in written.items())
    typer.echo(f"wrote {out}: {numbers}")
