"""`unspoken export FORMAT` and `unspoken report`: convert a run for other tools, or to a page."""

from pathlib import Path
from typing import Annotated

import typer

from unspoken.runs.exports.coco import export_coco
from unspoken.runs.exports.hugging_face import export_hugging_face
from unspoken.runs.exports.label_studio import export_label_studio
from unspoken.runs.exports.report import PAGE_FILE, write_report
from unspoken.runs.exports.webdataset import export_webdataset

export_app = typer.Typer(
    help="Export datasets in the formats of other tools.", no_args_is_help=True
)

Run = Annotated[Path, typer.Argument(help="Run folder or its dataset folder.")]
OutFolder = Annotated[Path, typer.Option(help="Output folder, new or empty.")]
Pictures = Annotated[
    Path | None,
    typer.Option(
        help="Folder that now contains the labelled pictures, if they were moved since the run."
    ),
]


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


def _tell(out: Path, written: dict[str, int]) -> None:
    numbers = ", ".join(f"{number} {what}" for what, number in written.items())
    typer.echo(f"wrote {out}: {numbers}")
