"""Backend over the transformers code of Grounding-DINO and MM-Grounding-DINO.

It loads two kinds of safetensors folders. A folder from the hub, such as
`IDEA-Research/grounding-dino-tiny`, has network, tokenizer and image processor. A folder of this
project's small detector has no text encoder.
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

from services.detector.packing import MAX_WORD_PIECES, PromptChunk, encoding_once
from services.detector.scoring import RawDetections
from unspoken.compute.precision import compute_dtype, computing_in
from unspoken.config.model_folders import check_model_type, read_model_config
from unspoken.errors import InvalidConfig, MissingWeights
from unspoken.http.deadline import check_wanted
from unspoken.model.detector.deformable import use_bagged_attention
from unspoken.model.detector.grounding_dino import PhraseCache, load_small_detector, prepare_pixels

HUB_TYPES = ("grounding-dino", "mm-grounding-dino")
"""`model_type` of the supported networks. The outputs of other transformers detectors for text
queries differ."""
LONG_TO_SHORT = 1333 / 800
"""Published limit of the long side, relative to the short side: 1333 for a short side of 800."""
UNUSED_WEIGHTS = ".swin.layernorm."
"""The final norm of a Swin: missing in the published files, and never called by a detector."""
MAX_CACHED_BLOCKS = 20_000
"""Number of phrases whose text features are cached: about 5 kB each, 100 MB in total."""
_SPARE_TOKENS = 6  # difference of the network's limit of 256 and MAX_WORD_PIECES

PreparePixels = Callable[[np.ndarray], Tensor]
"""Preprocessing function: (H, W, 3) uint8 RGB -> (1, 3, h, w) float."""


class TransformersBackend:
    """Backend over one network on one device. Not thread-safe: call it from one thread."""

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
        """Move the model to the device; `dtype` is that of matrix products, not of the weights."""
        if device == "cpu":
            use_bagged_attention(model)
        self._model = model.to(device).eval().requires_grad_(requires_grad=False)
        self._tokenizer = tokenizer
        self._prepare = prepare
        self._device, self._dtype = device, dtype
        self._stop_id = tokenizer.convert_tokens_to_ids(".")
        self.box_threshold = box_threshold
        self.max_word_pieces = min(MAX_WORD_PIECES, model.config.max_text_len - _SPARE_TOKENS)
        # Cache word pieces, because nouns repeat from picture to picture.
        self._word_pieces = lru_cache(maxsize=65_536)(self._tokenize)

    def word_pieces(self, text: str) -> Sequence[int]:
        """See Backend."""
        return self._word_pieces(text)

    @torch.inference_mode()
    def predict(self, pixels: np.ndarray, chunks: Sequence[PromptChunk]) -> list[RawDetections]:
        """See Backend."""
        weights = next(self._model.parameters())
        pixel_values = self._prepare(pixels).to(device=weights.device, dtype=weights.dtype)
        with (
            computing_in(self._dtype, device=self._device),
            encoding_once(self._model.model.backbone),
        ):
            return [self._predict_chunk(pixel_values, chunk) for chunk in chunks]

    def _predict_chunk(self, pixel_values: Tensor, chunk: PromptChunk) -> RawDetections:
        check_wanted()  # stop between passes, because many phrases need many passes
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


class BoundedPhraseCache(PhraseCache):
    """A `PhraseCache` for arbitrary requests: its size is bounded, and new phrases are batched.

    One call per phrase took about 16 ms of CPU in a profiler, 17 s for 1 000 new phrases.
    """

    def forward(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        """See PhraseCache."""
        self._encode_new({block for row in input_ids.tolist() for block in self._blocks(row)})
        return super().forward(input_ids, *args, **kwargs)

    def _blocks(self, row: Sequence[int]) -> Iterator[tuple[int, ...]]:
        start = 0
        for end, token in enumerate(row, start=1):
            if token in self._separators:
                yield tuple(row[start:end])
                start = end

    def _encode_new(self, blocks: set[tuple[int, ...]]) -> None:
        if len(self._hidden_states) + len(blocks) > MAX_CACHED_BLOCKS:
            self._hidden_states.clear()
        by_length: dict[int, list[tuple[int, ...]]] = {}
        for block in sorted(blocks - self._hidden_states.keys()):
            by_length.setdefault(len(block), []).append(block)
        for same_length in by_length.values():  # so that no batch needs padding
            hidden = self._text_encoder[0](torch.tensor(same_length)).last_hidden_state
            self._hidden_states.update(zip(same_length, hidden, strict=True))


def load_hub_detector(
    folder: Path, *, short_side_px: int, device: str, dtype: str
) -> TransformersBackend:
    """Load a folder in the hub's format. Raises MissingWeights, InvalidConfig."""
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
        raise InvalidConfig(f"{folder} is not a Grounding-DINO of transformers: {error}") from error
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
    """Load the small detector of `training.detector`. Raises MissingWeights, InvalidConfig."""
    loaded = load_small_detector(folder, text_encoder_dir=text_encoder_dir)
    if device == "cpu":
        network = loaded.model.model
        network.text_backbone = BoundedPhraseCache(
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
    """Return True if config.json has an `unspoken` block. Raises MissingWeights, InvalidConfig."""
    return "unspoken" in read_model_config(folder)


def resize_by(processor: Any, *, short_side_px: int) -> PreparePixels:
    """Return a preprocessing function: a transformers image processor with another short side."""
    longest_px = round(short_side_px * LONG_TO_SHORT)
    size = {"shortest_edge": short_side_px, "longest_edge": longest_px}

    def prepare(pixels: np.ndarray) -> Tensor:
        # State the axis order, because a guess would be wrong for a picture three pixels high. Copy
        # the array, because Pillow's arrays are read-only and torch warns about them.
        batch = processor(
            images=[np.array(pixels)],
            size=size,
            input_data_format="channels_last",
            return_tensors="pt",
        )
        prepared: Tensor = batch["pixel_values"]
        return prepared

    return prepare
