"""How good the small Semantic-SAM is, on scenes that nothing was trained or chosen on.

    python -m bench.segmenter_quality

500 scenes of trained classes and 500 of classes that were never trained on, in the art style
trained on. Objects are prompted by their true box, and their mask's vector is compared with every
known noun.

box_miou            IoU of the masks with the truth, wholes and parts; bar .80
grid_miou           the same for masks whose logits are the truth's shares of the network's cells:
                    what its grid alone would let it reach
top1                wholes whose vector is nearest to their own noun, of the known nouns; bar .60
held_out_top1       the same for classes never trained on, among known and held-out nouns
untrained_top1      the floor: the same network before it met a label
true_labels_top1    the ceiling: trained on the truth's labels (where such weights are given)
named_only_top1     trained on what captions name, without implied boxes (where such are given)

Further weights of the recipes are named with `--true-labels`, `--named-only`, `--mixed`, `--unmixed`.
With `--sam` come `retention_own`, `_mixed` and `_unmixed`: box mIoU less the small SAM's, below 0 if lost.
"""  # noqa: E501 - names of options

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from smallworld.world import World
from training.data.batches import low_resolution
from training.evaluate import WORLD_SEED, dataset_groups, load_any, text_encoder
from training.evaluation.measure import EvaluationConfig, Figures, measure
from training.evaluation.pictures import scene_pictures
from unspoken.model.checkpoint import LoadedSam, SemanticInfo
from unspoken.model.input_frame import InputFrame
from unspoken.model.semantic_sam import is_new
from unspoken.settings import ProcessSettings

WEIGHTS = Path(__file__).parents[1] / "weights" / "small" / "segmenter" / "model.safetensors"
HELD_OUT_SEED = WORLD_SEED + 10_000_000
STYLE = "twemoji"


def main(
    weights: Annotated[Path, typer.Option(help="The network to judge.")] = WEIGHTS,
    scenes: Annotated[int, typer.Option(help="Scenes a group.")] = 500,
    data: Annotated[Path | None, typer.Option(help="Its dataset: groups by captions.")] = None,
    sam: Annotated[Path | None, typer.Option(help="The small SAM that it started from.")] = None,
    true_labels: Annotated[Path | None, typer.Option(help="Trained on the truth.")] = None,
    named_only: Annotated[Path | None, typer.Option(help="Trained on named boxes.")] = None,
    mixed: Annotated[Path | None, typer.Option(help="Joint, trained 1:4.")] = None,
    unmixed: Annotated[Path | None, typer.Option(help="Joint, trained 0:1.")] = None,
) -> None:
    """Print one JSON line."""
    torch.set_num_threads(2)
    bench = _Bench(scenes=scenes, data=data)
    loaded = load_any(weights)
    figures = bench.known(loaded, clicks=True)
    line: Figures = {
        "box_miou": figures["box_miou"],
        "top1": figures["box_top1"],
        "scenes": scenes,
        "grid_miou": bench.grid(loaded),
        **{name: value for name, value in figures.items() if name != "box_miou"},
        "held_out_top1": bench.held_out(loaded)["box_top1"],
        "untrained_top1": bench.known(_untrained(loaded))["box_top1"],
    }
    for name, path in (("true_labels", true_labels), ("named_only", named_only)):
        if path is not None:
            line[f"{name}_top1"] = bench.known(load_any(path))["box_top1"]
    if sam is not None:
        before = bench.known(load_any(sam))["box_miou"]
        known = {weights: figures["box_miou"]}
        for name, path in (("own", weights), ("mixed", mixed), ("unmixed", unmixed)):
            if path is not None and path not in known:
                known[path] = bench.known(load_any(path))["box_miou"]
            after = None if path is None else known[path]
            if before is not None and after is not None:
                line[f"retention_{name}"] = round(after - before, 4)
    typer.echo(json.dumps({"bench": "segmenter_quality", "figures": line}))


class _Bench:
    """Scenes and words that all networks are asked about."""

    def __init__(self, *, scenes: int, data: Path | None) -> None:
        self._scenes = scenes
        self._groups = dataset_groups(data)
        self._encode_texts = text_encoder(ProcessSettings())
        self._known = sorted(World.load(styles=(STYLE,), split="train").cutouts[STYLE])
        self._held_out = sorted(World.load(styles=(STYLE,), split="held_out").cutouts[STYLE])

    def known(self, loaded: LoadedSam, *, clicks: bool = False) -> Figures:
        """Trained classes among the known nouns."""
        return measure(
            loaded,
            scene_pictures(num_scenes=self._scenes, first_seed=WORLD_SEED, style=STYLE),
            encode_texts=self._encode_texts,
            vocabulary=self._known,
            groups=self._groups,
            config=EvaluationConfig(clicks=clicks),
        )

    def grid(self, loaded: LoadedSam) -> float:
        """IoU with the truth of its own shares of cells, brought back to pixels."""
        sam = loaded.model.config.sam
        found = []
        for picture in scene_pictures(num_scenes=self._scenes, first_seed=WORLD_SEED, style=STYLE):
            frame = InputFrame.of(picture.pixels.shape[:2], sam)
            for each in picture.objects:
                share = low_resolution(torch.from_numpy(each.mask), frame, sam)
                drawn = frame.logits_to_original(share[None, None] - 0.5)[0, 0].numpy() > 0
                found.append((drawn & each.mask).sum() / (drawn | each.mask).sum())
        return round(float(np.mean(found)), 4)

    def held_out(self, loaded: LoadedSam) -> Figures:
        """Classes never trained on, among all nouns."""
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


def _untrained(loaded: LoadedSam) -> LoadedSam:
    """The same network with the semantic head as it starts."""
    torch.manual_seed(0)
    model = type(loaded.model)(loaded.model.config)
    trained = loaded.model.state_dict()
    fresh = model.state_dict()
    model.load_state_dict(
        {name: fresh[name] if is_new(name) else tensor for name, tensor in trained.items()}
    )
    model.mask_decoder.start_new_tokens()
    info = SemanticInfo(text_templates=loaded.info.text_templates)
    return LoadedSam(model=model.eval(), info=info)


if __name__ == "__main__":
    typer.run(main)
