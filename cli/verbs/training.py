"""`unspoken train` and `unspoken evaluate`. Torch is imported once the options are valid."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.checking.paths import check_output_folder, check_weights
from cli.checking.training import RECIPES, check_instances, check_recipe
from cli.console import PlainConsole
from cli.options import MovedTo, Quiet, Workspace
from cli.progress import shown_progress
from cli.workspace import DEFAULT_WORKSPACE, run_folder
from training.recipes import DETECTOR_RECIPES
from unspoken.errors import InvalidConfig, InvalidInput
from unspoken.runs.exports.source import find_dataset, missing_pictures

console = PlainConsole(stderr=True)

LabelledRun = Annotated[
    str | None, typer.Option("--run", metavar="RUN", help="Run whose dataset is trained on.")
]


def train(
    context: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(
            help="\b\n" + "\n".join(f"{name}: {about}" for name, about in RECIPES.items())
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(help="Output folder for checkpoint, metrics and weights.")],
    run: LabelledRun = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    moved_to: MovedTo = None,
    sa1b: Annotated[Path | None, typer.Option(help="SA-1B folder.")] = None,
    sam: Annotated[Path | None, typer.Option(help="Official sam_vit_*.pth to start from.")] = None,
    start: Annotated[
        Path | None, typer.Option(help="Weights of this project to start from.")
    ] = None,
    stem: Annotated[
        Path | None, typer.Option(help="Folder of the small detector, for a network with a stem.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Number of steps (default: the recipe's).")
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(help="Ratio of masks to boxes, such as 1:4; the batch size stays the same."),
    ] = None,
    named_only: Annotated[
        bool, typer.Option("--named-only", help="Train only on boxes of named labels.")
    ] = False,
    hard_negatives: Annotated[
        bool,
        typer.Option(
            "--hard-negatives", help="Also train on negatives: labels proposed but never found."
        ),
    ] = False,
    minutes: Annotated[
        float, typer.Option(min=0, help="Time limit of a recipe of the detector.")
    ] = 90.0,
    quiet: Quiet = False,
) -> None:
    """Train Semantic-SAM or the small detector by a recipe.

    Run the same command again to resume an interrupted training.

    Examples:
        unspoken train readout --sam sam_vit_b_01ec64.pth --run my-pictures --out readout
        unspoken train small-detector --minutes 90 --out detector
    """
    dataset = _dataset(workspace, run)
    check_recipe(recipe, context.params)
    _check_installed()
    if recipe in DETECTOR_RECIPES:
        from training.detector.recipe import recipe_named
        from training.detector.train import train_detector

        train_detector(
            recipe_named(recipe),
            out=out,
            minutes=minutes,
            start=start,
            progress=shown_progress(quiet=quiet),
        )
        return
    from training.sam.recipe import sam_recipe
    from training.train import TrainFiles, train_on_all_ranks

    chosen = sam_recipe(recipe)
    if steps is not None:
        chosen = replace(chosen, steps=steps)
    if mix is not None:
        chosen = replace(chosen, batch=chosen.batch.mixed(mix))
    if hard_negatives:
        chosen = replace(chosen, hard_negatives=True)
    files = TrainFiles(
        out=out,
        data=dataset,
        pictures=moved_to,
        sa1b=sa1b,
        sam=sam,
        start=start,
        stem=stem,
        named_only=named_only,
    )
    train_on_all_ranks(chosen, files, progress=shown_progress(quiet=quiet))


def evaluate(
    weights: Annotated[Path, typer.Argument(help="Weights of this project, or an official .pth.")],
    *,
    world: Annotated[
        int | None, typer.Option(min=1, help="Number of scenes of the small world.")
    ] = None,
    coco: Annotated[Path | None, typer.Option(help="COCO or LVIS instances JSON file.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures of --coco.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of pictures of --coco.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Run that was trained on, to group classes by captions."),
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    base: Annotated[Path | None, typer.Option(help="Checkpoint to compare with.")] = None,
    text_queries: Annotated[
        int, typer.Option(min=0, help="Number of pictures for text queries by mask bank.")
    ] = 50,
    points_per_side: Annotated[
        int | None, typer.Option(min=1, help="Points per side of the mask bank's grid.")
    ] = None,
    score: Annotated[
        Literal["softmax", "cosine"], typer.Option(help="Score of text queries.")
    ] = "softmax",
    out: Annotated[Path | None, typer.Option(help="Folder for JSON and pictures.")] = None,
    quiet: Quiet = False,
) -> None:
    """Measure a Semantic-SAM's names, masks, retention and text queries; print a table.

    Examples:
        unspoken evaluate readout/weights.safetensors --world 200
        unspoken evaluate readout/weights.safetensors --coco instances.json --images val
    """
    if (world is None) == (coco is None):
        raise InvalidInput("give either --world N, or --coco FILE with --images DIR")
    if coco is not None and images is None:
        raise InvalidInput("--coco needs the folder of its pictures: --images DIR")
    check_weights(weights, what="the checkpoint")
    if base is not None:
        check_weights(base, what="--base")
    if coco is not None and images is not None:
        check_instances(coco, images)
    if out is not None:
        check_output_folder(out)
    dataset = _dataset(workspace, run)
    _check_installed()
    from training.evaluate import EvaluationPictures, evaluate_and_print

    evaluate_and_print(
        weights,
        EvaluationPictures(world=world, coco=coco, images=images, limit=limit),
        dataset=dataset,
        base=base,
        text_queries=text_queries,
        points_per_side=points_per_side,
        score=score,
        out=out,
        progress=shown_progress(quiet=quiet),
    )


def _dataset(workspace: Path, run: str | None) -> Path | None:
    """Return the dataset folder of a run, and warn of pictures that are not labelled yet."""
    if run is None:
        return None
    run_dir = run_folder(workspace, run)
    if missing := missing_pictures(run_dir):
        console.print(f"warning: {missing}", soft_wrap=True)
    return find_dataset(run_dir)


def _check_installed() -> None:
    missing = [name for name in ("scipy", "segment_anything", "torch") if find_spec(name) is None]
    if missing:
        raise InvalidConfig(f"training needs {', '.join(missing)}: pip install unspoken-stack")
