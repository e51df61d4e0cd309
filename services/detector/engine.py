"""The detector engine: packs phrases into few text prompts and scores boxes by token span."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from services.detector.packing import MAX_PHRASES, PromptChunk, pack_phrases
from services.detector.scoring import RawDetections, ScoringConfig, best_first, detections_of
from services.detector.settings import DetectorSettings
from unspoken.compute.precision import prepare_device
from unspoken.config.profiles import ModelEntry, resolve_files
from unspoken.errors import InvalidConfig
from unspoken.imaging.images import Picture
from unspoken.wire.base import ModelInfo
from unspoken.wire.detections import Detection, DetectionResult

DEFAULT_BOX_THRESHOLD = 0.35
"""Default of the original Grounding DINO API, for weights whose config has no threshold."""
DEFAULT_SHORT_SIDE_PX = 800

logger = logging.getLogger(__name__)


class Backend(Protocol):
    """A Grounding-DINO network with its tokenizer and its image preprocessing."""

    @property
    def max_word_pieces(self) -> int:
        """Largest number of tokens in a text prompt, with separators and special tokens."""

    @property
    def box_threshold(self) -> float | None:
        """The threshold that the weights were calibrated to; None if their config has none."""

    def word_pieces(self, text: str) -> Sequence[int]:
        """Return the ids of a text's word pieces, without special tokens."""

    def predict(self, pixels: np.ndarray, chunks: Sequence[PromptChunk]) -> list[RawDetections]:
        """Return the raw detections of each chunk; the picture is encoded once.

        pixels: (H, W, 3) uint8 RGB.
        """


class DetectorEngine:
    """Detector port over a backend. Not thread-safe: call it from one thread."""

    def __init__(
        self,
        backend: Backend,
        *,
        model: ModelInfo,
        box_threshold: float | None = None,
        scoring: ScoringConfig | None = None,
    ) -> None:
        self._backend = backend
        self._scoring = scoring or ScoringConfig()
        self.model = model
        chosen = (box_threshold, backend.box_threshold, DEFAULT_BOX_THRESHOLD)
        self.box_threshold = next(value for value in chosen if value is not None)

    def detect(
        self,
        picture: Picture,
        phrases: Sequence[str],
        *,
        box_threshold: float | None = None,
        independent: bool = False,
    ) -> DetectionResult:
        """See unspoken.ports.Detector. The image backbone always encodes the picture only once."""
        threshold = self.box_threshold if box_threshold is None else box_threshold
        chunks = pack_phrases(
            phrases,
            self._backend.word_pieces,
            max_word_pieces=self._backend.max_word_pieces,
            max_phrases=1 if independent else MAX_PHRASES,
        )
        if not chunks:
            return DetectionResult(detections=(), num_chunks=0)
        detections: list[Detection] = []
        for chunk, raw in zip(chunks, self._backend.predict(picture.pixels, chunks), strict=True):
            detections += detections_of(
                chunk,
                raw,
                asked=phrases,
                size_hw=picture.size_hw,
                box_threshold=threshold,
                config=self._scoring,
            )
        return DetectionResult(detections=best_first(detections), num_chunks=len(chunks))


def build_engine(settings: DetectorSettings) -> DetectorEngine:
    """Load the profile's detector. Raises InvalidConfig, MissingWeights."""
    entry = settings.read_profile().detector
    prepare_device(entry.device)
    folder = resolve_files(entry, cache_dir=settings.cache_dir)
    parts = {
        role: resolve_files(part, cache_dir=settings.cache_dir)
        for role, part in entry.parts.items()
    }
    engine = DetectorEngine(
        _load_backend(entry, folder=folder, parts=parts, settings=settings),
        model=ModelInfo(
            name=entry.name, kind="detector", revision=entry.revision, device=entry.device
        ),
        box_threshold=settings.box_threshold,
        scoring=ScoringConfig(
            nms_iou=settings.nms_iou, max_boxes_per_phrase=settings.max_boxes_per_phrase
        ),
    )
    logger.info(
        "detector=%s revision=%s device=%s box_threshold=%.3f",
        entry.name,
        entry.revision,
        entry.device,
        engine.box_threshold,
    )
    return engine


def _load_backend(
    entry: ModelEntry, *, folder: Path, parts: Mapping[str, Path], settings: DetectorSettings
) -> Backend:
    """Load the chosen backend; imports are local, because only its code must be installed."""
    short_side_px = settings.short_side_px or _short_side_px(entry)
    match settings.backend or entry.options.get("backend", "transformers"):
        case "transformers":
            from services.detector import transformers_backend as hub

            if hub.is_project_detector(folder):
                return hub.load_project_detector(
                    folder, text_encoder_dir=_text_encoder(parts, entry), device=entry.device
                )
            return hub.load_hub_detector(
                folder, short_side_px=short_side_px, device=entry.device, dtype=entry.dtype
            )
        case "groundingdino":
            from services.detector.groundingdino_backend import load_original_detector

            return load_original_detector(
                folder / _option(entry, "weights"),
                text_encoder_dir=_text_encoder(parts, entry),
                architecture=_option(entry, "architecture"),
                short_side_px=short_side_px,
                device=entry.device,
            )
        case other:
            raise InvalidConfig(f"backend must be transformers or groundingdino, got {other!r}")


def _text_encoder(parts: Mapping[str, Path], entry: ModelEntry) -> Path:
    if "text_encoder" not in parts:
        raise InvalidConfig(f"{entry.name} of models.yaml needs parts: text_encoder")
    return parts["text_encoder"]


def _option(entry: ModelEntry, name: str) -> str:
    value = entry.options.get(name)
    if not isinstance(value, str):
        raise InvalidConfig(f"{entry.name} of models.yaml needs options: {name}, got {value!r}")
    return value


def _short_side_px(entry: ModelEntry) -> int:
    value = entry.options.get("short_side_px", DEFAULT_SHORT_SIDE_PX)
    if not isinstance(value, int) or not 64 <= value <= 2048:
        raise InvalidConfig(f"short_side_px of {entry.name} must be 64 to 2048, got {value!r}")
    return value
