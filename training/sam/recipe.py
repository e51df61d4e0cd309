"""Named recipes of Semantic-SAM: functions that return all settings of a run.

| recipe | starts from | learns | data a step | command |
|---|---|---|---|---|
| small-sam-coarse | nothing | all | 128 masks | `unspoken train small-sam-coarse --sa1b DIR --out DIR` |
| small-sam | small-sam-coarse | all | 128 masks | `unspoken train small-sam --start W --stem DETECTOR --sa1b DIR --out DIR` |
| small-sam-fine | small-sam | all | 96 masks | `unspoken train small-sam-fine --start W --sa1b DIR --out DIR` |
| small-semantic | small-sam-fine | decoder, joint | 32 masks : 128 boxes | `unspoken train small-semantic --start W --run RUN --sa1b DIR --out DIR` |
| readout | official SAM | new tokens, isolated | 128 boxes, kept embeddings | `unspoken train readout --sam PTH --run RUN --out DIR` |
| thesis | official SAM | decoder, joint | 32 masks : 128 boxes | `unspoken train thesis --sam PTH --run RUN --sa1b DIR --out DIR` |
| smoke | nothing | new tokens, isolated | 8 masks : 32 boxes | the tests' |

Recipes that have been run give their cost and figures; `readout` and `thesis` have not been run.
"""  # noqa: E501 - a table

from dataclasses import dataclass, field, replace
from typing import Literal

from training.data.batches import BatchConfig
from training.recipes import SAM_RECIPES
from training.sam.mask_losses import MaskLossConfig
from training.sam.prompting import Simulation
from training.sam.semantic_losses import SemanticLossConfig
from unspoken.errors import InvalidInput
from unspoken.model.sam.config import SemanticConfig, SemanticSamConfig, sam_config
from unspoken.problem_words import unknown_name


@dataclass(frozen=True, kw_only=True)
class SamRecipe:
    """All settings of a run except its files."""

    name: str
    network: SemanticSamConfig
    batch: BatchConfig
    steps: int
    simulation: Simulation = "fast"
    simulate_every: int = 1
    """Every n-th step runs the whole simulation; other steps use the first prompt only."""
    box_noise: float = 0.1
    """Standard deviation of each corner, as a share of the box's side."""
    point_share: float = 0.3
    """Share of the labelled boxes that are prompted by a point in their mask."""
    mask_loss: MaskLossConfig = field(default_factory=MaskLossConfig)
    semantic_loss: SemanticLossConfig = field(default_factory=SemanticLossConfig)
    text_center: Literal["none", "mean"] = "none"
    extra_negatives: int = 0
    """Number of negative labels drawn by frequency, besides the labels of the step."""
    hard_negatives: bool = False
    """Use phrases proposed for a picture but not found in it as negatives for its boxes."""
    lr_new: float = 5e-4
    lr_scale: float = 5e-4
    """Learning rate of the logit scale, which is learned as a logarithm.

    At the rate of the other weights it changes too slowly.
    """
    lr_mix: float = 5e-4
    """Learning rate of the weights that mix in a stem's features, if there is a stem."""
    lr_decoder: float = 1e-5
    lr_encoder: float = 3e-6
    layer_decay: float = 0.9
    weight_decay: float = 0.05
    warmup_steps: int = 250
    final_lr_share: float = 0.1
    clip_new: float = 1.0
    clip_old: float = 0.1
    accumulate: int = 1
    """Number of batches whose gradients are accumulated for one step."""
    ema_decay: float | None = None
    keep_embeddings: bool = False
    """Encode each picture once and keep its embedding on disk. Only for a frozen encoder."""
    bf16: Literal["auto", "never"] = "auto"
    compile_decoder: bool = False
    """Compile the decoder, if a C++ compiler exists: a quarter faster after two minutes.

    Only for recipes with masks alone, because steps with boxes always have new shapes, and each new
    shape is compiled again.
    """
    num_workers: int = 1
    log_every: int = 20
    checkpoint_every_s: float = 180.0
    sample_every: int = 500
    seed: int = 0


def sam_recipe(name: str) -> SamRecipe:
    """Return the recipe of this name. Raises InvalidInput if there is none."""
    match name:
        case "small-sam-coarse":
            return small_sam_coarse()
        case "small-sam":
            return small_sam()
        case "small-sam-fine":
            return small_sam_fine()
        case "small-semantic":
            return small_semantic()
        case "readout":
            return readout()
        case "thesis":
            return thesis()
        case "smoke":
            return smoke()
        case _:
            raise InvalidInput(unknown_name(name, SAM_RECIPES, what="recipe"))


def small_sam_coarse() -> SamRecipe:
    """Train a small SAM from random weights on patches of 12 pixels, half as costly as those of 8.

    `small_sam` gives the cost of a step; docs/decisions/0006 compares the two.
    """
    fine = small_sam()
    return replace(
        fine,
        name="small-sam-coarse",
        network=replace(fine.network, sam=replace(fine.network.sam, patch_size=12, stem="none")),
        steps=1300,
    )


def small_sam() -> SamRecipe:
    """Train the small SAM with a stem and patches of 8 pixels, on masks without labels.

    See docs/decisions/0006 and 0007. About 2.2 s per step on two AVX-512 cores (bf16, two processes
    with one thread each): 90 minutes. The card of smallworld/weights/segmenter gives the results.
    """
    return SamRecipe(
        name="small-sam",
        network=SemanticSamConfig(
            sam=replace(sam_config("small"), image_size=192, stem_size=None),
            semantic=SemanticConfig(train="all"),
        ),
        batch=BatchConfig(masks_per_step=128, boxes_per_step=0, masks_per_picture=8, seed=1),
        steps=2500,
        simulate_every=10,
        box_noise=0.05,
        compile_decoder=True,
        lr_mix=2e-3,
        lr_decoder=6e-4,
        lr_encoder=6e-4,
        layer_decay=1.0,
        weight_decay=0.02,
        warmup_steps=60,
        final_lr_share=0.02,
        clip_old=1.0,
        ema_decay=0.998,
    )


def small_sam_fine() -> SamRecipe:
    """Train the small SAM at its serving size, a third larger, for parts of a few pixels.

    7.5 s per step on two AVX2 cores in fp32, with other load: 38 minutes. See docs/decisions/0013.
    """
    before = small_sam()
    return replace(
        before,
        name="small-sam-fine",
        network=replace(before.network, sam=sam_config("small")),
        batch=BatchConfig(masks_per_step=96, boxes_per_step=0, masks_per_picture=12, seed=91),
        steps=300,
        compile_decoder=False,
        lr_mix=3e-4,
        lr_decoder=3e-4,
        lr_encoder=3e-4,
        warmup_steps=20,
    )


def small_semantic() -> SamRecipe:
    """Train the small SAM's labels on a dataset that the worker generated, 1 mask : 4 boxes.

    5 s per step on two AVX2 cores in fp32, with other load, once all pictures are encoded; up to
    three times as long before that. The card of smallworld/weights/segmenter gives the results
    and the number of steps. See docs/decisions/0007.
    """
    return SamRecipe(
        name="small-semantic",
        network=SemanticSamConfig(
            sam=sam_config("small"),
            semantic=SemanticConfig(
                token_attention="joint", train="decoder", shared_head=True, pools_masks=True
            ),
        ),
        text_center="mean",
        batch=BatchConfig(masks_per_step=32, boxes_per_step=128, seed=2),
        # About a third of the contrast, because at full weight the masks lost a tenth of their IoU.
        semantic_loss=SemanticLossConfig(contrast_weight=0.3),
        extra_negatives=128,
        # The encoder is frozen, so each picture is encoded once.
        keep_embeddings=True,
        steps=360,
        simulate_every=8,
        box_noise=0.05,
        lr_new=3e-3,
        lr_scale=2e-2,
        lr_decoder=1.5e-4,
        warmup_steps=30,
        final_lr_share=0.02,
        clip_old=1.0,
        ema_decay=0.995,
    )


def readout() -> SamRecipe:
    """Train new tokens beside a frozen official SAM, on kept embeddings."""
    return SamRecipe(
        name="readout",
        network=SemanticSamConfig(sam=sam_config("vit_b")),
        batch=BatchConfig(masks_per_step=0, boxes_per_step=128, boxes_per_picture=6, seed=3),
        steps=10_000,
        keep_embeddings=True,
    )


def thesis() -> SamRecipe:
    """The thesis's recipe: joint attention, whole decoder trained, 1 SA-1B mask : 4 boxes."""
    return SamRecipe(
        name="thesis",
        network=SemanticSamConfig(
            sam=sam_config("vit_h"),
            semantic=SemanticConfig(token_attention="joint", train="decoder"),
        ),
        batch=BatchConfig(masks_per_step=32, boxes_per_step=128, masks_per_picture=8, seed=4),
        # A quarter of the contrast, because it starts at 4 to 6 (the logarithm of the number of
        # labels), and the mask losses at about 1.
        semantic_loss=SemanticLossConfig(contrast_weight=0.25),
        steps=20_000,
        keep_embeddings=False,
    )


def smoke() -> SamRecipe:
    """A recipe of seconds, for tests: the loss falls, and isolated masks do not change."""
    base = readout()
    return replace(
        base,
        name="smoke",
        network=SemanticSamConfig(sam=sam_config("tiny")),
        batch=BatchConfig(masks_per_step=8, boxes_per_step=32, masks_per_picture=4, seed=5),
        steps=80,
        lr_new=8e-3,
        warmup_steps=4,
        num_workers=0,
        log_every=5,
        sample_every=20,
    )
