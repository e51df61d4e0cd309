"""The CropRanker port: rank labels for crops of an image with an image-text model."""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from services.segmenter.settings import SegmenterSettings
from unspoken.config.profiles import resolve_files
from unspoken.imaging.crops import cut_crops, rank_labels
from unspoken.imaging.images import Picture
from unspoken.model.image_tower import ImageTower, load_image_tower
from unspoken.ports import TextEncoder
from unspoken.wire.base import ModelInfo
from unspoken.wire.crops import Crop

logger = logging.getLogger(__name__)

PROMPT = "a photo of a {}"
"""Prompt for a label: CLIP was trained on sentences, and its authors write class names so."""


class CropEngine:
    """CropRanker that encodes crops with the image tower and labels with the text tower.

    Not thread-safe: call it on the inference thread only.
    load: loads the image tower. It is called at the first request, because most services never get
    one. ViT-L's image tower is two and a half times as large as its text tower.
    """

    def __init__(self, text_encoder: TextEncoder, load: Callable[[], ImageTower]) -> None:
        self.model: ModelInfo = text_encoder.model
        self._text_encoder = text_encoder
        self._load = load

    @cached_property
    def _tower(self) -> ImageTower:
        return self._load()

    def rank_crops(
        self, picture: Picture, crops: Sequence[Crop], labels: Sequence[str]
    ) -> list[int]:
        """See unspoken.ports.CropRanker. Raises MissingWeights, InvalidConfig at the first use."""
        if not crops:
            return []
        tower = self._tower
        boxes = np.asarray([crop.box.to_list() for crop in crops])  # (N, 4)
        pixels = cut_crops(picture.pixels, boxes, side_px=tower.side_px)
        crop_vectors = tower.encode(pixels)  # (N, 768)
        label_vectors = self._text_encoder.encode_texts([PROMPT.format(label) for label in labels])
        own = np.asarray([crop.label_index for crop in crops])
        ranks: list[int] = rank_labels(crop_vectors, label_vectors, own).tolist()
        return ranks


def build_crop_engine(settings: SegmenterSettings, text_encoder: TextEncoder) -> CropEngine | None:
    """Build the ranker of the profile; return None if its text encoder has no image tower.

    Raises MissingWeights, InvalidConfig.
    """
    entry = settings.read_profile().text_encoder
    if not entry.has_image_tower:
        return None
    folder = resolve_files(entry, cache_dir=settings.cache_dir)

    def load() -> ImageTower:
        tower = load_image_tower(entry, folder)
        logger.info("loaded image tower of %s device=%s", entry.name, entry.device)
        return tower

    return CropEngine(text_encoder, load)
