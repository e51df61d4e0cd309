"""`unspoken segment` and `unspoken embed`: use a segmenter on picture files."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from cli.checking.paths import check_output_folder
from cli.console import PlainConsole, say
from cli.embedding import embed_files, filled_segmenter, picture_files
from cli.options import Quiet, SegmenterUrl
from cli.progress import shown_progress
from cli.segmenter import open_segmenter
from cli.segmenting import describe_reply, read_question, segment_file
from unspoken.wire.segment import Method

MAX_NAMED = 5

console = PlainConsole(stderr=True)


def segment(
    image: Annotated[Path, typer.Argument(help="Picture file: JPEG, PNG or WEBP.")],
    texts: Annotated[list[str], typer.Argument(help="Texts to search for.")],
    *,
    url: SegmenterUrl = None,
    out: Annotated[Path, typer.Option(help="Folder for the overlay and the JSON.")] = Path(),
    method: Annotated[
        Method, typer.Option(help="Query method; auto uses the detector if there is one.")
    ] = "auto",
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Minimum score (default: the model's).")
    ] = None,
    top_k: Annotated[
        int, typer.Option(min=1, max=1000, help="Maximum number of masks per text.")
    ] = 20,
) -> None:
    """Find masks for words in a picture; write them as a picture and as JSON.

    Examples:
        unspoken segment street.jpg house wheel
        unspoken segment street.jpg "a red car" --url http://127.0.0.1:8000 --out masks
    """
    check_output_folder(out)
    question = read_question(image, texts, method=method, threshold=threshold, top_k=top_k)
    with open_segmenter(url) as segmenter:
        reply = segment_file(question, out=out, segmenter=segmenter)
    for line in describe_reply(reply):
        say(line)
    typer.echo(f"wrote {out / image.stem}-masks.png and {out / image.stem}-masks.json")


def embed(
    folder: Annotated[
        Path, typer.Argument(help="Folder of JPEG, PNG or WEBP files; also searches subfolders.")
    ],
    *,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of the disk cache (default: SEGMENTER_DISK_CACHE_DIR)."),
    ] = None,
    url: SegmenterUrl = None,
    quiet: Quiet = False,
) -> None:
    """Embed the pictures of a folder ahead of time, so that the first query is fast.

    Examples:
        unspoken embed pictures --cache /var/cache/unspoken
        unspoken embed pictures --url http://127.0.0.1:8000
    """
    paths = picture_files(folder)
    progress = shown_progress(console, quiet=quiet)
    with progress.stage("loading the segmenter"), ExitStack() as loaded:
        segmenter = loaded.enter_context(filled_segmenter(url, cache))
        kept = loaded.pop_all()
    with kept, progress.stage("embedding", total=len(paths)) as stage:
        report = embed_files(paths, segmenter, on_each=stage.advance)
    for path, problem in list(report.refused.items())[:MAX_NAMED]:
        console.print(f"skipped: {path}: {problem}", soft_wrap=True)
    typer.echo(
        f"{len(paths)} pictures: {report.num_encoded} encoded, {report.num_there} already cached, "
        f"{len(report.refused)} skipped"
    )
