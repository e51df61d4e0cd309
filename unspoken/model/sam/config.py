"""Configs of a Semantic-SAM: sizes of SAM and options of the semantic tokens.

A checkpoint stores the whole config. `vit_b`, `vit_l` and `vit_h` are those of the
segment-anything package (build_sam.py). The small ones have the same parts in other sizes.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from unspoken.errors import InvalidConfig

Stem = Literal["none", "resnet10t"]
TokenAttention = Literal["isolated", "joint"]
Train = Literal["new_only", "decoder", "decoder+encoder", "all"]

NUM_MASKS = 4  # the single mask, and the three of an ambiguous prompt


@dataclass(frozen=True, kw_only=True)
class SamConfig:
    """Sizes of SAM. Lengths are in pixels of the network's square input, or counts."""

    name: str
    image_size: int = 1024
    patch_size: int = 16
    encoder_width: int = 768
    encoder_depth: int = 12
    encoder_heads: int = 12
    global_attention: tuple[int, ...] = (2, 5, 8, 11)
    window_size: int = 14
    decoder_width: int = 256
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    iou_head_width: int = 256
    mask_channels: int = 16
    draws_boxes: bool = False
    """True to draw a box without a mask prompt as a mask prompt: docs/decisions/0006."""
    stem: Stem = "none"
    """Frozen convolutional stem beside the encoder, if any: docs/decisions/0007."""
    stem_size: int | None = None
    """Side of the stem's square input, in pixels; None for the network's input size."""
    refines_masks: bool = False
    """True to refine upscaled masks by the picture's colours: docs/decisions/0013."""
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise InvalidConfig(
                f"image_size must be a multiple of patch_size {self.patch_size}, "
                f"got {self.image_size}"
            )
        if self.stem != "none" and self.patch_size != 8:
            raise InvalidConfig(f"a stem has cells of 8 pixels, patches have {self.patch_size}")

    @property
    def embedding_side(self) -> int:
        """Cells of an image embedding along each axis."""
        return self.image_size // self.patch_size

    @property
    def mask_side(self) -> int:
        """Cells of low-resolution mask logits along each axis."""
        return 4 * self.embedding_side


@dataclass(frozen=True, kw_only=True)
class SemanticConfig:
    """Options of the five new tokens.

    token_attention: `isolated` tokens attend to all tokens, but SAM's own tokens and the picture do
    not attend to them, so SAM's own masks do not change. `joint` tokens take part in all
    attention, as in the thesis.
    train: the weights that are trained: only the new ones, the whole decoder, the decoder and the
    image encoder, or all (a SAM from scratch).
    """

    text_dim: int = 768
    token_attention: TokenAttention = "isolated"
    train: Train = "new_only"
    shared_head: bool = False
    pools_masks: bool = False
    """True to add the mean image embedding in a mask to its token: docs/decisions/0007."""


ISOLATED = SemanticConfig()


@dataclass(frozen=True, kw_only=True)
class SemanticSamConfig:
    """The complete config of a network: its sizes, its options and its trained weights."""

    sam: SamConfig
    semantic: SemanticConfig = ISOLATED

    def to_json(self) -> dict[str, Any]:
        """Return the config as plain values, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, written: Any) -> "SemanticSamConfig":
        """Parse the output of `to_json`. Raises InvalidConfig."""
        try:
            return cls(
                sam=SamConfig(**_tuples(SamConfig, written["sam"])),
                semantic=SemanticConfig(**_tuples(SemanticConfig, written["semantic"])),
            )
        except (KeyError, TypeError) as error:
            raise InvalidConfig(f"this is not a config of a Semantic-SAM: {error}") from error


def sam_config(name: str) -> SamConfig:
    """Return the config of a named size. Raises InvalidConfig for an unknown name."""
    match name:
        case "vit_b":
            return SamConfig(name=name)
        case "vit_l":
            return SamConfig(
                name=name,
                encoder_width=1024,
                encoder_depth=24,
                encoder_heads=16,
                global_attention=(5, 11, 17, 23),
            )
        case "vit_h":
            return SamConfig(
                name=name,
                encoder_width=1280,
                encoder_depth=32,
                encoder_heads=16,
                global_attention=(7, 15, 23, 31),
            )
        case "small":
            return SamConfig(
                name=name,
                image_size=256,
                patch_size=8,
                encoder_width=160,
                encoder_depth=6,
                encoder_heads=5,
                global_attention=(2, 5),
                window_size=8,
                decoder_width=128,
                decoder_heads=4,
                decoder_mlp=512,
                iou_head_width=128,
                draws_boxes=True,
                stem="resnet10t",
                stem_size=192,
                refines_masks=True,
            )
        case "tiny":
            return SamConfig(
                name=name,
                image_size=64,
                patch_size=8,
                encoder_width=32,
                encoder_depth=2,
                encoder_heads=2,
                global_attention=(1,),
                window_size=4,
                decoder_width=32,
                decoder_heads=2,
                decoder_mlp=64,
                iou_head_width=32,
                mask_channels=8,
            )
        case _:
            raise InvalidConfig(f"a SAM is vit_b, vit_l, vit_h, small or tiny, got {name!r}")


def _tuples(kind: type, written: dict[str, Any]) -> dict[str, Any]:
    """Convert lists to tuples, because JSON has no tuples.

    Raises TypeError for unknown or missing fields.
    """
    known = {field.name for field in fields(kind)}
    if set(written) != known:
        raise TypeError(f"{kind.__name__} has {sorted(known)}, got {sorted(written)}")
    return {name: tuple(v) if isinstance(v, list) else v for name, v in written.items()}
