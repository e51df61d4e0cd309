"""Training batches by number: prompted masks and labelled boxes in the network's input frame.

A step has exactly `masks_per_step` masks and `boxes_per_step` boxes, summed over all ranks. A unit
and its noise depend only on the seed and on the unit's place in the endless order. Therefore two
ranks together see the same data as one process. Masks and boxes share one encoder call.

Legend: B pictures, N units, S side of the network's input, s = 4h side of its mask logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from training.data.box_pictures import BoxPictures
from training.data.mask_pictures import MaskPictures
from unspoken.errors import InvalidConfig
from unspoken.model.sam.config import SamConfig
from unspoken.model.sam.input_frame import InputFrame


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """Number of units of each kind in a step, summed over all ranks; 0 leaves a kind out."""

    masks_per_step: int = 32
    boxes_per_step: int = 128
    masks_per_picture: int = 8
    boxes_per_picture: int = 8
    seed: int = 0

    def mixed(self, ratio: str) -> "BatchConfig":
        """Return a config with as many samples a step, split as `masks:boxes`.

        Raises InvalidConfig.
        """
        parts = ratio.split(":")
        if len(parts) != 2 or not all(each.isdecimal() for each in parts) or not int(parts[1]):
            raise InvalidConfig(f"a mix is MASKS:BOXES, as 1:4 or 0:1, got {ratio!r}")
        masks, boxes = (int(each) for each in parts)
        samples = self.masks_per_step + self.boxes_per_step
        if samples % (masks + boxes):
            raise InvalidConfig(f"{samples} samples per step cannot be divided as {ratio}")
        share = samples // (masks + boxes)
        return replace(self, masks_per_step=masks * share, boxes_per_step=boxes * share)


class MaskUnits(NamedTuple):
    """Masks that the network must reproduce from prompts."""

    image_index: Tensor  # (N,) long
    masks: Tensor  # (N, s, s) float: share of a logit's cell that the mask covers, 0 to 1
    known: Tensor  # (N, s, s) bool: False where the square is padding
    boxes: Tensor  # (N, 4) xyxy, of the network's frame
    points: Tensor  # (N, 2) x, y: a random pixel of the mask
    noise: Tensor  # (N, 4) standard normal, for a box's corners


class BoxUnits(NamedTuple):
    """Boxes for whose masks the network must predict the label's text vector."""

    image_index: Tensor  # (N,) long
    boxes: Tensor  # (N, 4) xyxy, of the network's frame
    labels: tuple[tuple[str, ...], ...]  # N of: the label, then its alternatives
    negatives: tuple[tuple[str, ...], ...]  # N of: labels that the unit's picture does not show
    noise: Tensor  # (N, 4) standard normal, for a box's corners
    draws: Tensor  # (N, 2) uniform: the first decides point or box, the second picks the point


class TrainBatch(NamedTuple):
    """Resized, unpadded pictures with their masks and boxes."""

    images: list[Tensor]  # B of (3, h, w) uint8
    keys: tuple[str, ...]  # B
    masks: MaskUnits
    boxes: BoxUnits

    def to(self, device: torch.device) -> "TrainBatch":
        """Move the units to a device. Pictures stay on the CPU until they are encoded."""
        boxes = self.boxes
        return self._replace(
            masks=MaskUnits(*(each.to(device) for each in self.masks)),
            boxes=boxes._replace(
                image_index=boxes.image_index.to(device),
                boxes=boxes.boxes.to(device),
                noise=boxes.noise.to(device),
                draws=boxes.draws.to(device),
            ),
        )


class TrainData(Dataset[TrainBatch]):
    """Dataset that returns batch `n` of one rank."""

    def __init__(
        self,
        config: BatchConfig,
        *,
        sam: SamConfig,
        mask_pictures: MaskPictures | None,
        box_pictures: BoxPictures | None,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        for name, count, source in (
            ("masks_per_step", config.masks_per_step, mask_pictures),
            ("boxes_per_step", config.boxes_per_step, box_pictures),
        ):
            if count % num_ranks:
                raise InvalidConfig(f"{name} must be a multiple of {num_ranks} ranks, got {count}")
            if count and source is None:
                raise InvalidConfig(f"{name} is {count}, but there is no source of them")
        self.config = config
        self._sam = sam
        self._mask_pictures = mask_pictures
        self._box_pictures = box_pictures
        self._rank, self._num_ranks = rank, num_ranks

    def __getitem__(self, number: int) -> TrainBatch:
        images: list[Tensor] = []
        keys: list[str] = []
        masks = self._masks(number, images, keys)
        boxes = self._boxes(number, images, keys)
        return TrainBatch(images, tuple(keys), masks, boxes)

    def _stretch(self, number: int, count: int) -> tuple[int, int]:
        """Return start and stop of this rank's units in batch `number` of `count` units."""
        share = count // self._num_ranks
        start = number * count + self._rank * share
        return start, start + share

    def _masks(self, number: int, images: list[Tensor], keys: list[str]) -> MaskUnits:
        index: list[int] = []
        rows: list[_MaskRow] = []
        if self._mask_pictures is not None and self.config.masks_per_step:
            start, stop = self._stretch(number, self.config.masks_per_step)
            for asked in self._mask_pictures.order.take(start, stop):
                found = self._mask_pictures.load(asked)
                frame = InputFrame.of(found.pixels.shape[:2], self._sam)
                for mask in found.masks:
                    rng = np.random.default_rng((self.config.seed, 0, start + len(rows)))
                    rows.append(_mask_row(mask, frame, self._sam, rng))
                index += [len(images)] * len(found.masks)
                images.append(frame.to_input(found.pixels))
                keys.append(found.key)
        side = self._sam.mask_side
        return MaskUnits(
            image_index=torch.tensor(index, dtype=torch.long),
            masks=_stack([row.mask for row in rows], (side, side), torch.float32),
            known=_stack([row.known for row in rows], (side, side), torch.bool),
            boxes=_stack([row.box for row in rows], (4,), torch.float32),
            points=_stack([row.point for row in rows], (2,), torch.float32),
            noise=_stack([row.noise for row in rows], (4,), torch.float32),
        )

    def _boxes(self, number: int, images: list[Tensor], keys: list[str]) -> BoxUnits:
        index: list[int] = []
        boxes: list[Tensor] = []
        labels: list[tuple[str, ...]] = []
        negatives: list[tuple[str, ...]] = []
        random: list[Tensor] = []
        if self._box_pictures is not None and self.config.boxes_per_step:
            start, stop = self._stretch(number, self.config.boxes_per_step)
            for asked in self._box_pictures.order.take(start, stop):
                found = self._box_pictures.load(asked)
                frame = InputFrame.of(found.pixels.shape[:2], self._sam)
                boxes += list(frame.boxes_to_input(found.boxes_xyxy))
                for label in found.labels:
                    rng = np.random.default_rng((self.config.seed, 1, start + len(labels)))
                    random.append(torch.from_numpy(np.append(rng.normal(size=4), rng.random(2))))
                    labels.append(label)
                negatives += [found.negatives] * len(found.labels)
                index += [len(images)] * len(found.labels)
                images.append(frame.to_input(found.pixels))
                keys.append(found.key)
        drawn = _stack(random, (6,), torch.float32)
        return BoxUnits(
            image_index=torch.tensor(index, dtype=torch.long),
            boxes=_stack(boxes, (4,), torch.float32),
            labels=tuple(labels),
            negatives=tuple(negatives),
            noise=drawn[:, :4],
            draws=drawn[:, 4:],
        )


class _MaskRow(NamedTuple):
    mask: Tensor
    known: Tensor
    box: Tensor
    point: Tensor
    noise: Tensor


def _mask_row(
    mask: np.ndarray, frame: InputFrame, sam: SamConfig, rng: np.random.Generator
) -> _MaskRow:
    """Transform one mask (H, W) bool, with its box and a random point, to the input frame."""
    rows, columns = np.nonzero(mask)
    chosen = int(rng.integers(len(rows)))
    # Corners lie on the outer edges of the outermost pixels, as in annotations.
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)
    point = np.array([columns[chosen], rows[chosen]], float)
    return _MaskRow(
        mask=low_resolution(torch.from_numpy(mask), frame, sam),
        known=low_resolution(torch.ones(mask.shape, dtype=torch.bool), frame, sam) > 0.5,
        box=frame.boxes_to_input(box[None])[0],
        point=frame.points_to_input(point),
        noise=torch.from_numpy(rng.normal(size=4)),
    )


def low_resolution(mask: Tensor, frame: InputFrame, sam: SamConfig) -> Tensor:
    """Downsample a mask: (H, W) bool in pixels -> (s, s) float, the covered share of each cell.

    The values are shares, not bits, because logits are interpolated before the threshold. A cell's
    share then tells where the mask's edge crosses it (docs/decisions/0006).
    """
    height, width = frame.input_size_hw
    resized = F.interpolate(mask[None, None].float(), (height, width), mode="area")
    square = F.pad(resized, (0, sam.image_size - width, 0, sam.image_size - height))
    return F.interpolate(square, (sam.mask_side, sam.mask_side), mode="area")[0, 0]


def _stack(rows: Sequence[Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.stack(list(rows)).to(dtype) if rows else torch.zeros(0, *shape, dtype=dtype)
