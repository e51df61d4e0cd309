"""Mask banks: all masks of a picture, computed ahead of queries from a grid of clicks.

The filter is that of segment-anything's automatic mask generator: predicted IoU, stability, and
non-maximum suppression of boxes. The filter runs on low-resolution logits. Only the remaining masks
are upscaled to the picture's own size, so a bank costs little more than its decoder calls.

A bank is built in steps, so that other requests can use the device between two steps.

Legend: N masks, M masks per click (3), D text width, H x W the picture, h x w low resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from unspoken.errors import InvalidConfig
from unspoken.imaging.masks import decode_rle, encode_rle, rle_areas, rle_boxes
from unspoken.model.sam.config import SamConfig
from unspoken.model.sam.input_frame import InputFrame
from unspoken.model.sam.mask_upscaling import MaskUpscaler
from unspoken.model.sam.semantic_decoder import DecoderOutput
from unspoken.model.sam.semantic_sam import Prompts, SemanticSam

UPSCALED_PIXELS = 16_000_000  # of all masks that are upscaled at once
CPU_BATCH_BYTES = 4 << 20  # image features of one decoder call, which fit a core's caches
GPU_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class MaskBankConfig:
    """Options of the grid of clicks and of the filter.

    If points_per_side or prompts_per_batch is None, the network's size and device decide.
    """

    points_per_side: int | None = None
    prompts_per_batch: int | None = None
    predicted_iou_threshold: float = 0.88
    stability_threshold: float = 0.95
    stability_offset: float = 1.0
    """The stability score compares the mask at logits above this offset and above its negative."""
    nms_iou: float = 0.7
    max_candidates: int = 1024
    """Beyond this number, overlapping candidates are dropped early to bound the memory."""

    def __post_init__(self) -> None:
        for name in ("points_per_side", "prompts_per_batch", "max_candidates"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidConfig(f"{name} must be at least 1, got {value}")

    def side_of(self, config: SamConfig) -> int:
        """Return the clicks along each axis: 32 as published, 16 for networks with small input."""
        return self.points_per_side or (32 if config.image_size >= 1024 else 16)

    def batch_of(self, config: SamConfig, device: torch.device) -> int:
        """Return the clicks per decoder call. On a CPU, their features must fit its caches."""
        if self.prompts_per_batch is not None:
            return self.prompts_per_batch
        if device.type != "cpu":
            return GPU_BATCH
        prompt_bytes = config.embedding_side**2 * config.decoder_width * 4
        return max(1, CPU_BATCH_BYTES // prompt_bytes)


@dataclass(frozen=True, kw_only=True)
class MaskBank:
    """N masks of one picture with their embeddings, on the CPU; masks are run-length encoded."""

    size_hw: tuple[int, int]
    rle: tuple[bytes, ...]
    """COCO's compressed counts."""
    boxes_xyxy: np.ndarray  # (N, 4) float32, pixels of the picture
    areas: np.ndarray  # (N,) int64 pixels
    predicted_iou: np.ndarray  # (N,) float32, as the network predicts it: may exceed 1
    stability_score: np.ndarray  # (N,) float32 in [0, 1]
    similarity: np.ndarray  # (N,) float32: predicted cosine with the right label's vector
    mask_embedding: np.ndarray  # (N, D) float32, unit length

    def __len__(self) -> int:
        return len(self.rle)

    def masks(self, indices: Sequence[int] | None = None) -> np.ndarray:
        """Decode the masks of the given indices, or all: (K, H, W) bool."""
        chosen = self.rle if indices is None else [self.rle[index] for index in indices]
        return decode_rle(chosen, self.size_hw)

    @cached_property
    def num_bytes(self) -> int:
        """Memory of the bank, in bytes."""
        arrays = (self.boxes_xyxy, self.areas, self.predicted_iou, self.similarity)
        return (
            sum(len(each) for each in self.rle)
            + sum(array.nbytes for array in arrays)
            + self.stability_score.nbytes
            + self.mask_embedding.nbytes
        )


class _Candidates(NamedTuple):
    """Low-resolution masks that passed the filter; all tensors have the same rows."""

    mask_logits: Tensor  # (N, h, w) float16
    boxes: Tensor  # (N, 4) xyxy in cells of the low resolution
    predicted_iou: Tensor  # (N,)
    stability_score: Tensor  # (N,)
    similarity: Tensor  # (N,)
    mask_embedding: Tensor  # (N, D)

    def rows(self, index: Tensor) -> "_Candidates":
        return _Candidates(*(tensor[index] for tensor in self))


class MaskBankBuilder:
    """Builds a bank in steps: call `step` until it returns True, then read `bank`."""

    def __init__(
        self,
        model: SemanticSam,
        image_embedding: Tensor,
        upscaler: MaskUpscaler,
        config: MaskBankConfig = MaskBankConfig(),
    ) -> None:
        assert len(image_embedding) == 1, "a bank is of one picture"
        frame = upscaler.frame
        self._model = model
        self._embedding = image_embedding
        self._upscaler = upscaler
        self._config = config
        points = grid_points(config.side_of(model.config.sam), frame.original_size_hw)
        batch = config.batch_of(model.config.sam, model.device)
        clicks = frame.points_to_input(points)
        self._batches = [clicks[start : start + batch] for start in range(0, len(clicks), batch)]
        self._batches.reverse()
        self._waiting: list[_Candidates] = []
        self._num_waiting = 0
        self._bank: MaskBank | None = None

    @property
    def bank(self) -> MaskBank:
        """The finished bank. Read it only after the last step."""
        assert self._bank is not None, "a bank is taken after its last step"
        return self._bank

    @torch.inference_mode()
    def step(self) -> bool:
        """Decode one batch of clicks, or finish; return True once the bank is built."""
        if not self._batches:
            self._bank = self._bank or self._finish()
            return True
        points = self._batches.pop().to(self._model.device)
        output = self._model.decode(
            self._embedding.to(self._model.device).float(),
            Prompts(
                image_index=torch.zeros(len(points), dtype=torch.long, device=points.device),
                points=points[:, None],
                point_labels=torch.ones(len(points), 1, device=points.device),
            ),
            multimask_output=True,
        )
        self._keep_good(output)
        return False

    def _keep_good(self, output: DecoderOutput) -> None:
        """Filter the (N, M) masks of one batch, with the cheapest test first."""
        good = (output.iou_predictions > self._config.predicted_iou_threshold).flatten()
        index = good.nonzero()[:, 0]
        if not len(index):
            return
        logits = output.mask_logits.flatten(0, 1)[index]  # (K, h, w)
        rows = _inside_cells(self._upscaler.frame, logits.shape[-1])
        stability = stability_scores(
            logits[:, : rows[0], : rows[1]], offset=self._config.stability_offset
        )
        boxes, filled = mask_boxes(logits[:, : rows[0], : rows[1]] > 0)
        stable = (stability >= self._config.stability_threshold) & filled
        stable_index = stable.nonzero()[:, 0]
        index = index[stable_index]
        self._waiting.append(
            _Candidates(
                logits[stable_index].half(),
                boxes[stable_index],
                output.iou_predictions.flatten()[index],
                stability[stable_index],
                output.similarity.flatten()[index],
                output.mask_embedding.flatten(0, 1)[index],
            )
        )
        self._num_waiting += len(index)
        if self._num_waiting > self._config.max_candidates:
            self._drop_overlapping()

    def _drop_overlapping(self) -> _Candidates | None:
        if not self._waiting:
            return None
        # torchvision's operator, because these boxes are on the network's device: numpy's
        # (unspoken.imaging.boxes) would wait for a copy of them.
        every = _Candidates(*(torch.cat(tensors) for tensors in zip(*self._waiting, strict=True)))
        kept = every.rows(nms(every.boxes, every.predicted_iou, self._config.nms_iou))
        self._waiting, self._num_waiting = [kept], len(kept.boxes)
        return kept

    def _finish(self) -> MaskBank:
        kept = self._drop_overlapping()
        self._waiting = []
        if kept is None:
            size_hw = self._upscaler.frame.original_size_hw
            return empty_bank(size_hw, self._model.config.semantic.text_dim)
        return _to_bank(kept, self._upscaler)


def build_mask_bank(
    model: SemanticSam,
    image_embedding: Tensor,
    upscaler: MaskUpscaler,
    config: MaskBankConfig = MaskBankConfig(),
) -> MaskBank:
    """Build the bank of one picture in one call. image_embedding: (1, C, cells, cells)."""
    builder = MaskBankBuilder(model, image_embedding, upscaler, config)
    while not builder.step():
        pass
    return builder.bank


@torch.inference_mode()
def bank_of_output(
    output: DecoderOutput, upscaler: MaskUpscaler, *, stability_offset: float
) -> MaskBank:
    """Convert the masks of prompts to a bank without dropping any.

    (N, M) masks become N x M rows in that order.
    """
    logits = output.mask_logits.flatten(0, 1)
    rows = _inside_cells(upscaler.frame, logits.shape[-1])
    inside = logits[:, : rows[0], : rows[1]]
    candidates = _Candidates(
        logits,
        mask_boxes(inside > 0)[0],
        output.iou_predictions.flatten(),
        stability_scores(inside, offset=stability_offset),
        output.similarity.flatten(),
        output.mask_embedding.flatten(0, 1),
    )
    return _to_bank(candidates, upscaler, keep_empty=True)


def empty_bank(size_hw: tuple[int, int], text_dim: int) -> MaskBank:
    """Return a bank without masks."""
    none = np.zeros(0, dtype=np.float32)
    return MaskBank(
        size_hw=size_hw,
        rle=(),
        boxes_xyxy=np.zeros((0, 4), dtype=np.float32),
        areas=np.zeros(0, dtype=np.int64),
        predicted_iou=none,
        stability_score=none,
        similarity=none,
        mask_embedding=np.zeros((0, text_dim), dtype=np.float32),
    )


def grid_points(points_per_side: int, size_hw: tuple[int, int]) -> np.ndarray:
    """Return (P * P, 2) x, y in the picture's pixels: the centres of the cells of a grid."""
    steps = (np.arange(points_per_side) + 0.5) / points_per_side
    x, y = np.meshgrid(steps * size_hw[1], steps * size_hw[0])
    return np.stack([x.ravel(), y.ravel()], axis=1)


def stability_scores(mask_logits: Tensor, *, offset: float) -> Tensor:
    """Return stability scores, (N, h, w) -> (N,).

    A score is the mask's area at threshold `offset` over its area at `-offset`.
    """
    inner = (mask_logits > offset).flatten(1).sum(1)
    outer = (mask_logits > -offset).flatten(1).sum(1)
    return inner / outer.clamp(min=1)


def mask_boxes(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return boxes of masks, (N, h, w) bool -> (N, 4) xyxy in cells.

    Also returns (N,) bool: True for masks that are not empty.
    """
    columns, rows = masks.any(1), masks.any(2)  # (N, w), (N, h)
    width, height = columns.shape[1], rows.shape[1]
    ends = torch.stack(
        [
            columns.int().argmax(1),
            rows.int().argmax(1),
            width - columns.flip(1).int().argmax(1),
            height - rows.flip(1).int().argmax(1),
        ],
        dim=1,
    )
    return ends.float(), columns.any(1)


def _inside_cells(frame: InputFrame, mask_side: int) -> tuple[int, int]:
    """Return the rows and columns of low resolution that the picture covers, without padding."""
    height, width = (-(-length * mask_side // frame.side) for length in frame.input_size_hw)
    return height, width


def _to_bank(kept: _Candidates, upscaler: MaskUpscaler, *, keep_empty: bool = False) -> MaskBank:
    """Upscale masks to the picture's size, some at a time, and run-length encode them."""
    frame = upscaler.frame
    size_hw = frame.original_size_hw
    pixels = max(size_hw[0] * size_hw[1], frame.side**2)
    rle: list[bytes] = []
    at_once = max(1, UPSCALED_PIXELS // pixels)
    for start in range(0, len(kept.mask_logits), at_once):
        logits = kept.mask_logits[start : start + at_once]
        rle += encode_rle(upscaler.masks(logits).cpu().numpy())
    areas = rle_areas(rle, size_hw)
    shown = np.arange(len(rle)) if keep_empty else np.flatnonzero(areas)

    def rows(tensor: Tensor) -> np.ndarray:
        return tensor.float().cpu().numpy()[shown]

    return MaskBank(
        size_hw=size_hw,
        rle=tuple(rle[index] for index in shown),
        boxes_xyxy=rle_boxes(rle, size_hw)[shown],
        areas=areas[shown],
        predicted_iou=rows(kept.predicted_iou),
        stability_score=rows(kept.stability_score),
        similarity=rows(kept.similarity),
        mask_embedding=rows(kept.mask_embedding),
    )
