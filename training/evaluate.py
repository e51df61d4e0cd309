"""Evaluate a Semantic-SAM: `unspoken evaluate WEIGHTS`, on the small world or a COCO-style folder.

    unspoken evaluate OUT/weights.safetensors --world 500 --data RUN/dataset
    unspoken evaluate W --coco instances.json --images DIR --base sam_vit_b_01ec64.pth

Figures are printed as a table. With --out they are also written to `evaluation.json`, and
`evaluation.png` shows a grid of pictures with masks and predicted names. With --base, the masks of
another checkpoint are measured on the same prompts; `lost_...` is its IoU minus that of WEIGHTS.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from smallworld.world import World
from training.evaluation.measure import EncodeTexts, EvaluationConfig, Figures, measure
from training.evaluation.naming import Group, group_labels
from training.evaluation.picture_grid import write_grid
from training.evaluation.pictures import TruePicture, coco_pictures, scene_pictures
from unspoken.config.profiles import resolve_files
from unspoken.config.settings import ProcessSettings
from unspoken.errors import InvalidInput
from unspoken.model.mask_bank import MaskBankConfig
from unspoken.model.sam.checkpoint import LoadedSam, load_official_sam, load_weights
from unspoken.model.text_encoder import load_text_tower
from unspoken.model.text_space import TextSpaceConfig
from unspoken.runs.dataset.shards import iter_rows

WORLD_SEED = 710_000_000
"""Seed of the first held-out scene, far from the seeds of training and of the other benches."""
GRID_PICTURES = 12
MASK_FIGURES = ("box_miou", "box_boundary_miou", "click1_miou", "click3_miou", "click5_miou")


def load_any(path: Path) -> LoadedSam:
    """Load our own weights, or an official SAM checkpoint (`.pth`)."""
    return load_official_sam(path) if path.suffix == ".pth" else load_weights(path)


def text_encoder(settings: ProcessSettings) -> EncodeTexts:
    """Load the profile's text encoder."""
    entry = settings.read_profile().text_encoder
    tower = load_text_tower(entry, resolve_files(entry, cache_dir=settings.cache_dir))

    def encode_texts(texts: Sequence[str]) -> np.ndarray:
        vectors: np.ndarray = tower.encode(texts).numpy()
        return vectors

    return encode_texts


def dataset_groups(dataset_dir: Path | None) -> dict[str, Group]:
    """Group a dataset's labels by how often its captions name them; empty without a dataset."""
    if dataset_dir is None:
        return {}
    kept = [each for row in iter_rows(dataset_dir) for each in row.kept]
    named = Counter(each.label for each in kept if each.named)
    return group_labels(named, {each.label for each in kept})


def retention(figures: Figures, base: Figures) -> Figures:
    """Return the IoU that masks lose: the base's figures minus these."""
    lost: Figures = {}
    for name in MASK_FIGURES:
        now, before = figures.get(name), base.get(name)
        if now is not None and before is not None:
            lost[f"lost_{name}"] = round(before - now, 4)
    return lost


def evaluate(
    weights: Path,
    pictures: Callable[[], Iterator[TruePicture]],
    *,
    vocabulary: list[str],
    groups: dict[str, Group],
    base: Path | None,
    config: EvaluationConfig,
    settings: ProcessSettings,
) -> Figures:
    """Return all figures of a checkpoint, and its losses against `base` if that is given.

    Raises the errors of the functions that read these files.
    """
    encode_texts = text_encoder(settings)
    figures = measure(
        load_any(weights),
        pictures(),
        encode_texts=encode_texts,
        vocabulary=vocabulary,
        groups=groups,
        config=config,
    )
    if base is not None:
        before = measure(
            load_any(base),
            pictures(),
            encode_texts=encode_texts,
            vocabulary=vocabulary,
            groups=groups,
            config=EvaluationConfig(clicks=config.clicks),
        )
        figures |= retention(figures, before)
    return figures


def main(
    weights: Annotated[Path, typer.Argument(help="Weights of this project, or an official .pth.")],
    world: Annotated[
        int | None, typer.Option(min=1, help="Number of scenes of the small world.")
    ] = None,
    coco: Annotated[Path | None, typer.Option(help="COCO or LVIS instances JSON file.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures of --coco.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of pictures of --coco.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Training dataset, to group classes by its captions.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="Checkpoint to compare with.")] = None,
    text_queries: Annotated[
        int, typer.Option(min=0, help="Number of pictures for text queries by mask bank.")
    ] = 50,
    points_per_side: Annotated[
        int | None, typer.Option(min=1, help="Points per side of the mask bank's grid.")
    ] = None,
    score: Annotated[
        str, typer.Option(help="Score of text queries: softmax or cosine.")
    ] = "softmax",
    out: Annotated[Path | None, typer.Option(help="Folder for JSON and pictures.")] = None,
) -> None:
    """Measure a Semantic-SAM's names, masks, retention and text queries; print a table."""
    if (world is None) == (coco is None):
        raise InvalidInput("give either --world N, or --coco FILE with --images DIR")
    if score not in ("softmax", "cosine"):
        raise InvalidInput(f"--score must be softmax or cosine, got {score!r}")
    pictures, vocabulary = _source(world=world, coco=coco, images=images, limit=limit)
    settings = ProcessSettings()
    figures = evaluate(
        weights,
        pictures,
        vocabulary=vocabulary,
        groups=dataset_groups(data),
        base=base,
        config=EvaluationConfig(
            text_queries=text_queries,
            bank=MaskBankConfig(points_per_side=points_per_side),
            text_space=TextSpaceConfig(score="cosine" if score == "cosine" else "softmax"),
        ),
        settings=settings,
    )
    _print(figures)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n")
        some = [picture for picture, _ in zip(pictures(), range(GRID_PICTURES), strict=False)]
        write_grid(
            load_any(weights),
            some,
            encode_texts=text_encoder(settings),
            vocabulary=vocabulary,
            path=out / "evaluation.png",
        )
        typer.echo(f"wrote {out / 'evaluation.json'} and {out / 'evaluation.png'}")


def _source(
    *, world: int | None, coco: Path | None, images: Path | None, limit: int | None
) -> tuple[Callable[[], Iterator[TruePicture]], list[str]]:
    """Return a function that iterates over the pictures, and the labels of their truth."""
    if world is not None:
        loaded = World.load(styles=("twemoji",), split="train")
        words = sorted({*loaded.cutouts["twemoji"], *loaded.part_labels})
        return lambda: scene_pictures(num_scenes=world, first_seed=WORLD_SEED), words
    if coco is None or images is None:
        raise InvalidInput("--coco needs the folder of its pictures: --images DIR")
    categories = json.loads(coco.read_bytes())["categories"]
    names = sorted({each["name"].replace("_", " ") for each in categories})
    return lambda: coco_pictures(coco, images, limit=limit), names


def _print(figures: Figures) -> None:
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, "" if value is None else str(value))
    Console(markup=False, emoji=False).print(table)


if __name__ == "__main__":
    torch.set_num_threads(2)
    typer.run(main)
