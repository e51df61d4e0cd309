"""Image towers of image-text models: encode pictures as unit vectors in the text tower's space.

Functions import open_clip, because a profile without an image tower needs only `has_image_tower`.

Legend: N pictures, S side in pixels, D = 768.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from unspoken.config.profiles import ModelEntry
from unspoken.errors import InvalidConfig
from unspoken.model.text_encoder import architecture_of, read_tower_weights, weights_file_of

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer


class ImageTower(Protocol):
    """Protocol of an encoder of square pictures to unit vectors."""

    side_px: int

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Encode (N, S, S, 3) uint8 RGB -> (N, D) float32, unit length along D."""


def load_image_tower(entry: ModelEntry, folder: Path) -> "OpenClipImage":
    """Load the image tower of a text encoder's entry, from the same file.

    Raises InvalidConfig, MissingWeights.
    """
    return OpenClipImage(
        architecture_of(entry),
        weights_file_of(entry, folder),
        device=entry.device,
        dtype=entry.dtype,
    )


class OpenClipImage:
    """The image tower of an open_clip architecture, with weights from a file of the whole model.

    Pixels are normalised by OpenAI's mean and standard deviation. Weights that were trained with
    other values (as some of LAION's were) would need those.
    """

    def __init__(
        self, architecture: str, weights: Path, *, device: str = "cpu", dtype: str = "float32"
    ) -> None:
        from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

        with torch.device("meta"):
            tower = open_clip_image_tower(architecture)
        state = read_tower_weights(weights, names=tower.state_dict(), below=("visual.",))
        tower.load_state_dict(state, strict=True, assign=True)
        self._dtype, self._device = getattr(torch, dtype), device
        self._tower = tower.to(device=device, dtype=self._dtype).eval()
        self._mean = torch.tensor(OPENAI_DATASET_MEAN, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(OPENAI_DATASET_STD, device=device).view(1, 3, 1, 1)
        self.side_px = int(tower.image_size[0])

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """See ImageTower."""
        with torch.inference_mode():
            pictures = torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2)
            normalised = (pictures.float() / 255 - self._mean) / self._std  # (N, 3, S, S)
            features = self._tower(normalised.to(self._dtype))  # (N, D)
            return np.asarray(F.normalize(features.float(), dim=-1).cpu().numpy())


def open_clip_image_tower(architecture: str) -> "VisionTransformer":
    """Build the untrained image tower of an open_clip architecture.

    Raises InvalidConfig if the architecture is unknown, or if its image tower is not open_clip's
    own transformer, because other towers need other preprocessing.
    """
    import open_clip
    from open_clip.model import _build_vision_tower
    from open_clip.transformer import VisionTransformer

    config = open_clip.get_model_config(architecture)
    if config is None:
        raise InvalidConfig(f"open_clip has no architecture {architecture!r}")
    tower = None
    if not config["vision_cfg"].get("timm_model_name"):
        tower = _build_vision_tower(
            config["embed_dim"], config["vision_cfg"], quick_gelu=config.get("quick_gelu", False)
        )
    if not isinstance(tower, VisionTransformer):
        raise InvalidConfig(f"{architecture}: needs open_clip's own vision transformer")
    return tower
