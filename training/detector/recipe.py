"""Named recipes of the small detector: all settings of a run except its time and folder.

    unspoken train small-detector --out DIR --minutes 90
    unspoken train refine-detector --start DIR/weights --out DIR2

Hardware: 2 CPU cores (AVX2), no accelerator; two processes with one thread each. Expected figures
of `bench.detector_quality` after both recipes: known_recall .92, part_recall .57,
other_style_recall .60, at a false_answer_rate of .09. The card of
smallworld/weights/detector describes how the committed weights were trained. `smoke` runs the same
code in seconds, for tests.
"""

from dataclasses import dataclass, field, replace

from training.detector.backbone import BackboneConfig
from training.detector.data import DataConfig
from training.detector.losses import LossConfig
from training.recipes import DETECTOR_RECIPES
from unspoken.errors import InvalidInput
from unspoken.model.detector.grounding_dino import SmallDetectorConfig
from unspoken.problem_words import unknown_name


@dataclass(frozen=True, kw_only=True)
class DetectorRecipe:
    """All settings of a run except its time and folder."""

    name: str
    detector: SmallDetectorConfig = field(default_factory=SmallDetectorConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    backbone_share: float = 0.25  # of the run's minutes
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    # (share of the second phase from which the size applies, pixels). Small pictures come first,
    # because they are cheap.
    sizes_px: tuple[tuple[float, int], ...] = ((0.0, 128), (0.65, 160))
    lr: float = 8e-4
    backbone_lr: float = 6e-4
    text_lr: float = 1e-4  # low, because the first phase already sets the text projection
    weight_decay: float = 1e-4
    warmup_steps: int = 60
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    num_processes: int = 2  # one thread each: most operations are too small for two threads
    num_workers: int = 1  # per process
    log_every: int = 50
    checkpoint_every_s: float = 180.0
    validate_every_s: float = 480.0
    num_validation: int = 150
    seed: int = 0


def recipe_named(name: str) -> DetectorRecipe:
    """Return the recipe of this name. Raises InvalidInput if there is none."""
    match name:
        case "small-detector":
            return DetectorRecipe(name=name)
        case "refine-detector":
            return DetectorRecipe(
                name=name,
                detector=SmallDetectorConfig(image_size=192),
                data=DataConfig(seed=40_000_000),
                sizes_px=((0.0, 192),),
                lr=5e-4,
                backbone_lr=3e-4,
                text_lr=5e-5,
            )
        case "smoke":
            data = DataConfig(
                batch_size=2, num_absent=(3, 3), few_share=0.0, max_classes=8, num_wholes=(1, 3)
            )
            return DetectorRecipe(
                name=name,
                detector=SmallDetectorConfig(
                    image_size=96, d_model=32, ffn_dim=32, encoder_layers=1, decoder_layers=2,
                    num_queries=12, backbone="resnet10t",
                ),
                backbone=BackboneConfig(
                    data=replace(data, seed=500_000_000), sizes_px=(64,), num_workers=0
                ),
                data=data,
                sizes_px=((0.0, 96),),
                warmup_steps=4,
                num_processes=1,
                num_workers=0,
                num_validation=4,
            )  # fmt: skip
        case _:
            raise InvalidInput(unknown_name(name, DETECTOR_RECIPES, what="recipe"))


def size_at(recipe: DetectorRecipe, progress: float) -> int:
    """Return the side of the pictures at this share of the second phase."""
    return [size for since, size in recipe.sizes_px if progress >= since][-1]
