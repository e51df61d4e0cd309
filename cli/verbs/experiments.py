"""`unspoken world` and `reproduce`: the small world, and the thesis's claims measured again."""

import logging
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.checking.paths import check_folder, check_output_folder, read_lines
from cli.console import PlainConsole
from cli.options import Quiet
from cli.progress import shown_progress
from unspoken.errors import InvalidInput

reproduce_app = typer.Typer(no_args_is_help=True, add_completion=False)

DEFAULT_SCENES, QUICK_SCENES = 150, 20

console = PlainConsole(stderr=True)


class Style(StrEnum):
    """Art styles of the small world."""

    twemoji = "twemoji"
    fluent = "fluent"
    noto = "noto"


def world(
    *,
    out: Annotated[Path, typer.Option(help="New or empty folder.")],
    scenes: Annotated[int, typer.Option(min=1, help="Number of captioned pictures.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the first scene.")] = 0,
    unlabelled: Annotated[
        int | None, typer.Option(min=0, help="Pictures of the SA-1B folder (default: scenes / 4).")
    ] = None,
    styles: Annotated[list[Style] | None, typer.Option("--style", help="May be repeated.")] = None,
    quiet: Quiet = False,
) -> None:
    """Compose captioned pictures of emoji art with known truth, as shards and as SA-1B.

    Examples:
        unspoken world --out world --scenes 200
        unspoken label world/shards --name world
    """
    # Imported here, because only this command needs the art packages.
    from smallworld.shards import write_world

    chosen = tuple(str(style) for style in styles or (Style.twemoji, Style.fluent))
    tars = write_world(
        out,
        num_scenes=scenes,
        seed=seed,
        num_sa1b=unlabelled,
        styles=chosen,
        progress=shown_progress(console, quiet=quiet),
    )
    typer.echo(f"wrote {len(tars)} shards to {out / 'shards'} and {out / 'contact-sheet.jpg'}")


@reproduce_app.callback()
def reproduce() -> None:
    """Repeat the experiments of the thesis, with controls.

    Examples:
        unspoken reproduce proposals --quick
    """


@reproduce_app.command("proposals")
def proposals(
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Use few scenes: at most 5 minutes on 2 cores.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Output folder for JSON, page and plots.")] = Path(
        "proposals-out"
    ),
    scenes: Annotated[
        int | None, typer.Option(min=2, help="Number of pictures (default: 150; 20 with --quick).")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of the scenes (default: 404404, not used in training)."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of real pictures, with COCO or LVIS instances and COCO captions."
        ),
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            help="File of labels for B4 and random labels, one per line (default: ground truth)."
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--write-page", help="Also write the table between the markers of this file."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measure whether templates find what captions omit; one detector checks all sources."""
    started = time.monotonic()
    check_output_folder(out)
    words = _read_words(vocabulary) if vocabulary is not None else None
    if data is not None:
        check_folder(data, what="--data")
    # Imported here, because only this command needs torch and the art packages.
    from experiments.collections.coco_folder import coco_folder
    from experiments.collections.collection import SCENES_SEED, small_world
    from experiments.report.files import around_marks, put_into, write_report
    from experiments.report.page import answer, main_table
    from smallworld.world import World

    number = scenes or (QUICK_SCENES if quick else DEFAULT_SCENES)
    chosen_seed = SCENES_SEED if seed is None else seed
    if page is not None:
        around_marks(page)  # raises early if the marks are missing
    out.mkdir(parents=True, exist_ok=True)
    console.print(f"reading {number} pictures")
    collection = (
        small_world(World.load(("twemoji",)), num_scenes=number, seed=chosen_seed)
        if data is None
        else coco_folder(data, num_pictures=number, seed=chosen_seed)
    )
    # Imported here, because the pictures and the page are checked before models load.
    import torch

    from experiments.proposals import ProposalsConfig, compare_proposals
    from services.detector.engine import build_engine as build_detector
    from services.detector.settings import DetectorSettings
    from services.llm.engine import build_engine as build_prompter
    from services.llm.settings import LlmSettings

    logging.getLogger("transformers").setLevel(logging.ERROR)
    settings = DetectorSettings()
    torch.set_num_threads(settings.num_threads)
    result = compare_proposals(
        collection,
        build_prompter(LlmSettings(cache_entries=1_000_000)),
        build_detector(settings),
        config=ProposalsConfig(seed=chosen_seed),
        vocabulary=words,
        progress=shown_progress(console, quiet=quiet),
    )
    result["seconds"]["whole"] = round(time.monotonic() - started, 1)
    written = write_report(result, out)
    if page is not None:
        put_into(page, result)
    typer.echo(main_table(result))
    typer.echo(answer(result))
    typer.echo(f"wrote {', '.join(str(path) for path in written)}")
    typer.echo(f"{result['seconds']['whole']:.0f} s")


def _read_words(path: Path) -> list[str]:
    words = [" ".join(line.lower().split()) for line in read_lines(path, what="--vocabulary")]
    if not words:
        raise InvalidInput(f"--vocabulary {path} contains no labels. Write one label per line")
    return list(dict.fromkeys(words))
