"""Quality of the small Semantic-SAM on scenes that were not used for training or for any choice.

    python -m bench.segmenter_quality

There are 500 scenes of trained classes and 500 of classes that were never trained on, in the
trained art style. Objects are prompted by their true box, and their mask's vector is compared with
every known noun.

box_miou            IoU of the masks with the truth, wholes and parts; target: >= .80
grid_miou           the same for logits made of the truth's share of each cell: the upper limit at
                    the resolution of the network's grid
top1                share of wholes whose vector is nearest to their own noun; target: >= .60
held_out_top1       the same for classes never trained on, among known and held-out nouns
untrained_top1      lower reference: the same network before training on labels

With `--arms ARMS`, from `bench.segmenter_quality.train_arms`, the controls are measured too. All
were trained equally long from one SAM:

ARM_top1            `own`, the worker's dataset; `true_labels`, the upper limit; `named_only`,
                    without implied boxes; `unmixed`, without masks
ARM_lost_miou       box_miou of the SAM minus that of the arm; attention is joint
"""

import json
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import typer

from bench.segmenter_quality.arms import ARMS, SAM, STYLE, WEIGHTS, fresh_tokens
from smallworld.world import World
from training.data.batches import low_resolution
from training.evaluate import WORLD_SEED, dataset_groups, load_any, retention, text_encoder
from training.evaluation.measure import EvaluationConfig, Figures, measure
from training.evaluation.pictures import scene_pictures
from unspoken.config.settings import ProcessSettings
from unspoken.imaging.masks import mask_iou
from unspoken.model.sam.checkpoint import LoadedSam
from unspoken.model.sam.input_frame import InputFrame

HELD_OUT_SEED = WORLD_SEED + 10_000_000
What = Literal["clicks", "known", "fresh", "grid", "held_out"]


def main(
    weights: Annotated[Path, typer.Option(help="The network to judge.")] = WEIGHTS,
    scenes: Annotated[int, typer.Option(help="Scenes a group.")] = 500,
    data: Annotated[Path | None, typer.Option(help="Its dataset: groups by captions.")] = None,
    arms: Annotated[Path | None, typer.Option(help="The controls' folder.")] = None,
) -> None:
    """Print one JSON line."""
    # The networks are small, so one single-threaded process per core is faster than many threads.
    with ProcessPoolExecutor(
        max_workers=torch.get_num_threads(),
        mp_context=get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:

        def start(what: What, weights: Path) -> Future[Figures]:
            return pool.submit(_ask, scenes, data, what, weights)

        own = start("clicks", weights)
        grid = start("grid", weights)
        held_out, untrained = start("held_out", weights), start("fresh", weights)
        sam = None if arms is None else start("known", arms / SAM)
        trained = (
            {}
            if arms is None
            else {arm: start("known", arms / arm / "weights.safetensors") for arm in ARMS}
        )
        figures = own.result()
        line: Figures = {
            "box_miou": figures["box_miou"],
            "top1": figures["box_top1"],
            "scenes": scenes,
            **grid.result(),
            **{name: value for name, value in figures.items() if name != "box_miou"},
            "held_out_top1": held_out.result()["box_top1"],
            "untrained_top1": untrained.result()["box_top1"],
        }
        for arm, job in trained.items():
            line[f"{arm}_top1"] = job.result()["box_top1"]
            if sam is not None:
                line[f"{arm}_lost_miou"] = retention(job.result(), sam.result())["lost_box_miou"]
    typer.echo(json.dumps({"bench": "segmenter_quality", "figures": line}))


def _ask(scenes: int, data: Path | None, what: What, weights: Path) -> Figures:
    """Run one job of the bench in a worker process."""
    measurements, loaded = _measurements(scenes, data), load_any(weights)
    match what:
        case "clicks":
            return measurements.known(loaded, clicks=True)
        case "known":
            return measurements.known(loaded)
        case "fresh":
            return measurements.known(fresh_tokens(loaded))
        case "grid":
            return {"grid_miou": measurements.grid(loaded)}
        case "held_out":
            return measurements.held_out(loaded)


@cache
def _measurements(scenes: int, data: Path | None) -> "_Measurements":
    return _Measurements(scenes=scenes, data=data)


class _Measurements:
    """Scenes and vocabulary on which all networks are measured."""

    def __init__(self, *, scenes: int, data: Path | None) -> None:
        self._scenes = scenes
        self._groups = dataset_groups(data)
        self._encode_texts = text_encoder(ProcessSettings())
        self._known = sorted(World.load(styles=(STYLE,), split="train").cutouts[STYLE])
        self._held_out = sorted(World.load(styles=(STYLE,), split="held_out").cutouts[STYLE])

    def known(self, loaded: LoadedSam, *, clicks: bool = False) -> Figures:
        """Measure trained classes among the known nouns."""
        return measure(
            loaded,
            scene_pictures(num_scenes=self._scenes, first_seed=WORLD_SEED, style=STYLE),
            encode_texts=self._encode_texts,
            vocabulary=self._known,
            groups=self._groups,
            config=EvaluationConfig(clicks=clicks),
        )

    def grid(self, loaded: LoadedSam) -> float:
        """Return the mean IoU of the truth with itself, reduced to cell shares and enlarged."""
        sam = loaded.model.config.sam
        found = []
        for picture in scene_pictures(num_scenes=self._scenes, first_seed=WORLD_SEED, style=STYLE):
            frame = InputFrame.of(picture.pixels.shape[:2], sam)
            for each in picture.objects:
                share = low_resolution(torch.from_numpy(each.mask), frame, sam)
                drawn = frame.logits_to_original(share[None, None] - 0.5)[0, 0].numpy() > 0
                found.append(mask_iou(drawn, each.mask))
        return round(float(np.mean(found)), 4)

    def held_out(self, loaded: LoadedSam) -> Figures:
        """Measure classes never trained on, among all nouns."""
        return measure(
            loaded,
            scene_pictures(
                num_scenes=self._scenes, first_seed=HELD_OUT_SEED, style=STYLE, split="held_out"
            ),
            encode_texts=self._encode_texts,
            vocabulary=sorted({*self._known, *self._held_out}),
            groups=self._groups,
            config=EvaluationConfig(clicks=False),
        )


if __name__ == "__main__":
    typer.run(main)
