"""Grounding-DINO and MM-Grounding-DINO as transformers runs them, from a folder of safetensors.

Two kinds of folder: what the hub holds for `IDEA-Research/grounding-dino-tiny` and its kin
(network, tokenizer, image processor), and our small detector, which stores no text encoder.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForZeroShotObjectDetection, AutoTokenizer

from services.detector.image_features import encoding_once
from services.detector.packing import MAX_WORD_PIECES, Chunk
from services.detector.scoring import RawDetections
from unspoken.deadline import check_wanted
from unspoken.errors import InvalidConfig, MissingWeights
from unspoken.model.deformable import use_bags
from unspoken.model.grounding_dino import PhraseMemory, load_small_detector, prepare_pixels
from unspoken.model_folders import check_model_type, read_model_config
from unspoken.precision import compute_dtype, computing_in

HUB_TYPES = ("grounding-dino", "mm-grounding-dino")
"""`model_type` of the networks whose folders are read. transformers has other detectors for text
queries; their outputs differ."""
LONG_TO_SHORT = 1333 / 800
"""The published bound on the long side, for a short side of 800."""
UNUSED_WEIGHTS = ".swin.layernorm."
"""The norm behind a whole Swin: not in the published files, and never called by a detector."""
MAX_REMEMBERED = 20_000
"""Phrases whose text features are kept: about 5 kB each, 100 MB in all."""
_SPARE_TOKENS = 6  # between our budget of 250 and the 256 that the network reads

PreparePixels = Callable[[np.ndarray], Tensor]
"""(H, W, 3) uint8 RGB -> (1, 3, h, w) float."""


class TransformersBackend:
    """One network on one device; call it from one thread."""

    def __init__(
        self,
        model: Any,
        *,
        tokenizer: Any,
        prepare: PreparePixels,
        device: str,
        box_threshold: float | None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """dtype: of products; that of the weights is theirs."""
        if device == "cpu":
            use_bags(model)
        self._model = model.to(device).eval().requires_grad_(requires_grad=False)
        self._tokenizer = tokenizer
        self._prepare = prepare
        self._device, self._dtype = device, dtype
        self._stop_id = tokenizer.convert_tokens_to_ids(".")
        self.box_threshold = box_threshold
        self.max_word_pieces = min(MAX_WORD_PIECES, model.config.max_text_len - _SPARE_TOKENS)
        # Nouns repeat from picture to picture.
        self._word_pieces = lru_cache(maxsize=65_536)(self._tokenize)

    def word_pieces(self, text: str) -> Sequence[int]:
        """See Backend."""
        return self._word_pieces(text)

    @torch.inference_mode()
    def predict(self, pixels: np.ndarray, chunks: Sequence[Chunk]) -> list[RawDetections]:
        """See Backend."""
        weights = next(self._model.parameters())
        pixel_values = self._prepare(pixels).to(device=weights.device, dtype=weights.dtype)
        with (
            computing_in(self._dtype, device=self._device),
            encoding_once(self._model.model.backbone),
        ):
            return [self._predict_chunk(pixel_values, chunk) for chunk in chunks]

    def _predict_chunk(self, pixel_values: Tensor, chunk: Chunk) -> RawDetections:
        check_wanted()  # many phrases are many passes
        token_ids = chunk.token_ids(
            cls_id=self._tokenizer.cls_token_id,
            separator_id=self._stop_id,
            sep_id=self._tokenizer.sep_token_id,
        )
        input_ids = torch.tensor([token_ids], device=pixel_values.device)  # (1, T)
        output = self._model(pixel_values=pixel_values, input_ids=input_ids)
        return RawDetections(
            token_scores=output.logits[0].float().sigmoid().cpu().numpy(),  # padding -inf is 0
            boxes_cxcywh_norm=output.pred_boxes[0].float().cpu().numpy(),
        )

    def _tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))


class BoundedPhraseMemory(PhraseMemory):
    """A `PhraseMemory` for strangers' phrases: it forgets, and asks the encoder for many at once.

    One call a phrase took about 16 ms of CPU under a profiler, 17 s for 1 000 unseen phrases.
    """

    def forward(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        """See PhraseMemory."""
        self._learn({block for row in input_ids.tolist() for block in self._blocks(row)})
        return super().forward(input_ids, *args, **kwargs)

    def _blocks(self, row: Sequence[int]) -> Iterator[tuple[int, ...]]:
        start = 0
        for end, token in enumerate(row, start=1):
            if token in self._separators:
                yield tuple(row[start:end])
                start = end

    def _learn(self, blocks: set[tuple[int, ...]]) -> None:
        if len(self._answers) + len(blocks) > MAX_REMEMBERED:
            self._answers.clear()
        by_length: dict[int, list[tuple[int, ...]]] = {}
        for block in sorted(blocks - self._answers.keys()):
            by_length.setdefault(len(block), []).append(block)
        for alike in by_length.values():  # of one length, so that nothing needs padding
            hidden = self._text_encoder[0](torch.tensor(alike)).last_hidden_state
            self._answers.update(zip(alike, hidden, strict=True))


def load_hub_detector(
    folder: Path, *, short_side_px: int, device: str, dtype: str
) -> TransformersBackend:
    """Load a folder as the hub has it. Raises MissingWeights, InvalidConfig."""
    check_model_type(folder, supported=HUB_TYPES, role="detector")
    for name in ("model.safetensors", "preprocessor_config.json"):
        if not (folder / name).is_file():
            raise MissingWeights(f"no {name} in {folder}")
    computes = compute_dtype(dtype, device=device)
    weights_dtype = torch.float32 if dtype == "auto" else computes
    try:
        model, report = AutoModelForZeroShotObjectDetection.from_pretrained(
            folder, dtype=weights_dtype, use_safetensors=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder)
        processor = AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InvalidConfig(f"{folder} is no Grounding-DINO of transformers: {error}") from error
    absent = sorted(
        str(name)
        for name in (*report["missing_keys"], *report["mismatched_keys"])
        if UNUSED_WEIGHTS not in str(name)
    )
    if absent:
        raise InvalidConfig(f"{folder / 'model.safetensors'} does not fit: {absent[:8]}")
    return TransformersBackend(
        model,
        tokenizer=tokenizer,
        prepare=resize_by(processor, short_side_px=short_side_px),
        device=device,
        box_threshold=None,
        dtype=computes,
    )


def load_project_detector(
    folder: Path, *, text_encoder_dir: Path, device: str
) -> TransformersBackend:
    """The small detector of `training.detector`. Raises MissingWeights, InvalidConfig."""
    loaded = load_small_detector(folder, text_encoder_dir=text_encoder_dir)
    if device == "cpu":
        network = loaded.model.model
        network.text_backbone = BoundedPhraseMemory(
            network.text_backbone, separators=network.special_tokens.tolist()
        )
    return TransformersBackend(
        loaded.model,
        tokenizer=loaded.tokenizer,
        prepare=lambda pixels: prepare_pixels([pixels], config=loaded.config),
        device=device,
        box_threshold=loaded.config.box_threshold,
    )


def is_project_detector(folder: Path) -> bool:
    """Return True if `config.json` has our own block. Raises MissingWeights, InvalidConfig."""
    return "unspoken" in read_model_config(folder)


def resize_by(processor: Any, *, short_side_px: int) -> PreparePixels:
    """Prepare pictures with an image processor of transformers at a short side of our own."""
    longest_px = round(short_side_px * LONG_TO_SHORT)
    size = {"shortest_edge": short_side_px, "longest_edge": longest_px}

    def prepare(pixels: np.ndarray) -> Tensor:
        # The axis order is said: a picture three pixels high would be guessed wrong. A copy, since
        # Pillow's arrays are read-only and torch warns of those.
        batch = processor(
            images=[np.array(pixels)],
            size=size,
            input_data_format="channels_last",
            return_tensors="pt",
        )
        prepared: Tensor = batch["pixel_values"]
        return prepared

    return prepare
