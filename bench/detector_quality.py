"""Quality of the small detector on scenes that were not used for training or for any choice.

    python -m bench.detector_quality

Scenes go through the detector's engine, so the served code is measured. 500 scenes set the
threshold, at which a tenth of absent labels gets a box. Each group is measured on 500 other scenes:

known_recall        wholes of trained classes in the trained art style (twemoji); target: >= .70
other_style_recall  the same classes in an art style that was never trained on (noto)
held_out_recall     classes that were never trained on
part_recall         parts, in the scenes of known_recall
false_answer_rate   share of absent labels that get a box, in the same scenes; limit: .10

Each figure has a 95 % bootstrap interval over scenes. The same figures of random weights follow.
"""

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

import smallworld
from services.detector.engine import DetectorEngine
from services.detector.transformers_backend import load_project_detector
from smallworld.scenes import Scene, compose_scene
from smallworld.world import Split, World
from training.detector.data import Vocabulary
from training.detector.quality import (
    FALSE_ANSWER_RATE,
    DetectPhrases,
    PhraseBoxes,
    SceneScores,
    Share,
    choose_threshold,
    score_scenes,
    share_above,
)
from training.detector.train import find_text_encoder
from unspoken.config.model_folders import CONFIG_FILE
from unspoken.imaging.images import Picture
from unspoken.logs import PROGRESS_LAYOUT, configure_logging
from unspoken.model.detector.grounding_dino import (
    build_small_detector,
    read_detector_config,
    save_small_detector,
)
from unspoken.wire.base import ModelInfo

logger = logging.getLogger(__name__)

WEIGHTS = Path(smallworld.__path__[0], "weights", "detector")
# First scene of each group, far from the other groups, from training and from its validation.
CALIBRATION_SEED = 610_000_000
GROUP_SEEDS = {"known": 620_000_000, "other_style": 630_000_000, "held_out": 640_000_000}
GROUPS: dict[str, tuple[str, Split]] = {
    "known": ("twemoji", "train"),
    "other_style": ("noto", "train"),
    "held_out": ("twemoji", "held_out"),
}
MIN_SCORE = 0.01  # lower than every threshold that could be chosen


def main(
    weights: Annotated[Path, typer.Option(help="Folder of the detector.")] = WEIGHTS,
    scenes: Annotated[int, typer.Option(help="Scenes a group.")] = 500,
    random_scenes: Annotated[int, typer.Option(help="Scenes a group for random weights.")] = 100,
    *,
    record_threshold: Annotated[
        bool, typer.Option(help="Write the threshold into the folder's config.json.")
    ] = False,
) -> None:
    """Print one JSON line; figures as [share, low, high]."""
    torch.set_num_threads(2)
    engine = load_engine(weights)
    figures, threshold = measure(engine, num_scenes=scenes)
    with tempfile.TemporaryDirectory() as folder:
        write_random_weights(Path(folder), like=weights)
        random_figures, _ = measure(load_engine(Path(folder)), num_scenes=random_scenes)
    if record_threshold:
        write_threshold(weights, threshold)
    line: dict[str, object] = {name: _rounded(share) for name, share in figures.items()}
    line |= {f"random_{name}": _rounded(share) for name, share in random_figures.items()}
    line |= {"box_threshold": round(threshold, 4), "scenes": scenes}
    typer.echo(json.dumps({"bench": "detector_quality", "figures": line}))


def load_engine(weights: Path) -> DetectorEngine:
    """Load the served engine, with boxes of all scores kept."""
    backend = load_project_detector(weights, text_encoder_dir=find_text_encoder(), device="cpu")
    model = ModelInfo(name="small-detector", kind="detector", revision="bench")
    return DetectorEngine(backend, model=model, box_threshold=MIN_SCORE)


def measure(engine: DetectorEngine, *, num_scenes: int) -> tuple[dict[str, Share], float]:
    """Return all figures by name, and the threshold that they use."""

    def scores_of(style: str, split: Split, seed: int) -> list[SceneScores]:
        world = World.load(styles=(style,), split=split)
        scenes = compose(world, first_seed=seed, count=num_scenes)
        vocabulary = Vocabulary.of(world)
        return score_scenes(scenes, ask_engine(engine), vocabulary=vocabulary, seed=seed)

    threshold = choose_threshold(
        scores_of("twemoji", "train", CALIBRATION_SEED), rate=FALSE_ANSWER_RATE
    )
    logger.info("threshold %.4f", threshold)
    figures: dict[str, Share] = {}
    for group, (style, split) in GROUPS.items():
        scores = scores_of(style, split, GROUP_SEEDS[group])
        figures[f"{group}_recall"] = share_above([s.wholes for s in scores], threshold=threshold)
        if group == "known":
            figures["part_recall"] = share_above([s.parts for s in scores], threshold=threshold)
            figures["false_answer_rate"] = share_above(
                [s.absent for s in scores], threshold=threshold
            )
    return figures, threshold


def compose(world: World, *, first_seed: int, count: int) -> Iterator[Scene]:
    """Compose `count` scenes of a world."""
    for number in range(count):
        yield compose_scene(world, seed=first_seed + number)


def ask_engine(engine: DetectorEngine) -> DetectPhrases:
    """Adapt the served engine to the interface of `training.detector.quality`."""

    def ask(image: np.ndarray, phrases: Sequence[str]) -> PhraseBoxes:
        found = engine.detect(Picture.of_pixels(image), phrases, box_threshold=MIN_SCORE).detections
        return PhraseBoxes(
            boxes_xyxy=np.array([each.box.to_list() for each in found]).reshape(-1, 4),
            phrases=np.array([each.phrase_index for each in found], int),
            scores=np.array([each.score for each in found]),
        )

    return ask


def write_random_weights(folder: Path, *, like: Path) -> None:
    """Write an untrained network of the same architecture."""
    torch.manual_seed(0)
    config = read_detector_config(like)
    model = build_small_detector(config, text_encoder_dir=find_text_encoder())
    save_small_detector(model, folder, config=config)


def write_threshold(weights: Path, threshold: float) -> None:
    """Write the service's default threshold into the config of the weights."""
    path = weights / CONFIG_FILE
    config = json.loads(path.read_text())
    config["unspoken"]["box_threshold"] = round(threshold, 4)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _rounded(share: Share) -> list[float]:
    return [round(value, 4) for value in share]


if __name__ == "__main__":
    configure_logging("INFO", "text", layout=PROGRESS_LAYOUT)
    typer.run(main)
