"""Evaluate a Semantic-SAM: `unspoken evaluate WEIGHTS`, on the small world or a COCO-style folder.

    unspoken evaluate OUT/weights.safetensors --world 500 --run RUN
    unspoken evaluate W --coco instances.json --images DIR --base sam_vit_b_01ec64.pth

Figures are printed as a table. With --out they are also written to `evaluation.json`, and
`evaluation.png` shows a grid of pictures with masks and predicted names. With --base, the masks of
another checkpoint are measured on the same prompts; `lost_...` is its IoU minus that of WEIGHTS.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from unspoken.model.text_space import Score, TextSpaceConfig
from unspoken.progress import NO_PROGRESS, Progress
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
    progress: Progress = NO_PROGRESS,
    total: int | None = None,
) -> Figures:
    """Return all figures of a checkpoint, and its losses against `base` if that is given.

    Raises the errors of the functions that read these files.
    """
    with progress.stage("loading models"):
        encode_texts, loaded = text_encoder(settings), load_any(weights)
    figures = measure(
        loaded,
        pictures(),
        encode_texts=encode_texts,
        vocabulary=vocabulary,
        groups=groups,
        config=config,
        progress=progress,
        total=total,
    )
    if base is not None:
        before = measure(
            load_any(base),
            pictures(),
            encode_texts=encode_texts,
            vocabulary=vocabulary,
            groups=groups,
            config=EvaluationConfig(clicks=config.clicks),
            progress=progress,
            total=total,
        )
        figures |= retention(figures, before)
    return figures


@dataclass(frozen=True, kw_only=True)
class EvaluationPictures:
    """Pictures with known truth: scenes of the small world, or those of a COCO-style file.

    world: number of scenes. coco, images: an instances file and the folder of its pictures. limit:
    maximum number of the file's pictures.
    """

    world: int | None = None
    coco: Path | None = None
    images: Path | None = None
    limit: int | None = None


def evaluate_and_print(
    weights: Path,
    where: EvaluationPictures,
    *,
    dataset: Path | None,
    base: Path | None,
    text_queries: int,
    points_per_side: int | None,
    score: Score,
    out: Path | None,
    progress: Progress,
) -> None:
    """Print all figures of a checkpoint; with `out`, also write them and a grid of pictures.

    dataset: training dataset, whose captions group the classes. base: checkpoint to compare with.
    text_queries: number of pictures for queries by mask bank, whose grid has points_per_side points
    a side.
    """
    torch.set_num_threads(2)
    pictures, vocabulary, total = _source(where)
    settings = ProcessSettings()
    figures = evaluate(
        weights,
        pictures,
        vocabulary=vocabulary,
        groups=dataset_groups(dataset),
        base=base,
        config=EvaluationConfig(
            text_queries=text_queries,
            bank=MaskBankConfig(points_per_side=points_per_side),
            text_space=TextSpaceConfig(score=score),
        ),
        settings=settings,
        progress=progress,
        total=total,
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
    where: EvaluationPictures,
) -> tuple[Callable[[], Iterator[TruePicture]], list[str], int]:
    """Return a function that iterates over pictures, their labels, and their number."""
    world, coco, images = where.world, where.coco, where.images
    if world is not None:
        loaded = World.load(styles=("twemoji",), split="train")
        words = sorted({*loaded.cutouts["twemoji"], *loaded.part_labels})
        return lambda: scene_pictures(num_scenes=world, first_seed=WORLD_SEED), words, world
    if coco is None or images is None:
        raise InvalidInput("--coco needs the folder of its pictures: --images DIR")
    written = json.loads(coco.read_bytes())
    names = sorted({each["name"].replace("_", " ") for each in written["categories"]})
    number = len(written["images"][: where.limit])
    return lambda: coco_pictures(coco, images, limit=where.limit), names, number


def _print(figures: Figures) -> None:
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, "" if value is None else str(value))
    Console(markup=False, emoji=False).print(table)
