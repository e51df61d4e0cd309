"""Convert boxes and points of queries to decoder prompts, and decode them in batches.

Prompts of one kind are decoded together. A single click is ambiguous and gives three masks; every
other prompt gives one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from unspoken.errors import InvalidInput
from unspoken.model.mask_bank import MaskBank, MaskBankConfig, bank_of_output, empty_bank
from unspoken.model.sam.input_frame import InputFrame
from unspoken.model.sam.mask_upscaling import MaskUpscaler
from unspoken.model.sam.semantic_sam import Prompts, SemanticSam
from unspoken.wire.segment import SegmentQuery


@dataclass(frozen=True)
class Prompt:
    """One prompt in pixels of the image.

    owner: index of the query, or another number that the caller chooses. index: position of the
    prompt among the owner's prompts.
    """

    owner: int
    index: int = 0
    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float, int], ...] = ()

    @property
    def kind(self) -> tuple[bool, int]:
        """Key that is equal for prompts that can share one call of the decoder."""
        return self.box is not None, len(self.points)

    @property
    def is_ambiguous(self) -> bool:
        """True for a single click, which can mean an object or a part of it."""
        return self.box is None and len(self.points) == 1


@dataclass(frozen=True)
class Prompted:
    """Masks of prompts, unsorted; an empty mask has area 0.

    Row i is mask `mask_indices[i]` of the prompt `prompt_indices[i]` of `owners[i]`.
    """

    bank: MaskBank
    owners: np.ndarray
    prompt_indices: np.ndarray
    mask_indices: np.ndarray


def prompts_of(query: SegmentQuery, *, owner: int, size_hw: tuple[int, int]) -> list[Prompt]:
    """Return the prompts of a query. Raises InvalidInput if one lies outside the image."""
    height, width = size_hw
    for point in query.points:
        if not (0 <= point.x <= width and 0 <= point.y <= height):
            raise InvalidInput(
                f"queries.{owner}: the point ({point.x}, {point.y}) is outside of the picture of "
                f"{width} x {height}"
            )
    points = tuple((point.x, point.y, point.label) for point in query.points)
    if not query.boxes:
        return [Prompt(owner, points=points)] if points else []
    prompts = []
    for index, box in enumerate(query.boxes):
        inside = cut_box((box.x0, box.y0, box.x1, box.y1), size_hw)
        if inside is None:
            raise InvalidInput(
                f"queries.{owner}: the box {(box.x0, box.y0, box.x1, box.y1)} is outside of the "
                f"picture of {width} x {height}"
            )
        prompts.append(Prompt(owner, index, box=inside, points=points))
    return prompts


def cut_box(
    box: tuple[float, float, float, float], size_hw: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """Return the part of a box that is inside the image; None if it is empty."""
    height, width = size_hw
    x0, y0 = max(0.0, box[0]), max(0.0, box[1])
    x1, y1 = min(float(width), box[2]), min(float(height), box[3])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


@torch.inference_mode()
def decode_prompts(
    model: SemanticSam,
    image_embedding: Tensor,
    upscaler: MaskUpscaler,
    prompts: Sequence[Prompt],
    *,
    config: MaskBankConfig,
) -> Prompted:
    """Decode the masks of all prompts: three for a single click, one for any other prompt.

    image_embedding: (1, C, cells, cells).
    """
    frame = upscaler.frame
    embedding = image_embedding.to(model.device).float()
    batch = config.batch_of(model.config.sam, model.device)
    banks: list[MaskBank] = []
    rows: list[tuple[int, int, int]] = []
    in_order = sorted(range(len(prompts)), key=lambda place: (prompts[place].kind, place))
    for _, places in groupby(in_order, key=lambda place: prompts[place].kind):
        group = [prompts[place] for place in places]
        for start in range(0, len(group), batch):
            chunk = group[start : start + batch]
            is_ambiguous = chunk[0].is_ambiguous
            output = model.decode(
                embedding, _tensors(chunk, frame, model.device), multimask_output=is_ambiguous
            )
            banks.append(bank_of_output(output, upscaler, stability_offset=config.stability_offset))
            rows += [
                (prompt.owner, prompt.index, mask)
                for prompt in chunk
                for mask in range(3 if is_ambiguous else 1)
            ]
    columns = np.asarray(rows, dtype=np.int64).reshape(-1, 3).T
    if not banks:
        return Prompted(
            empty_bank(frame.original_size_hw, model.config.semantic.text_dim), *columns
        )
    return Prompted(join_banks(banks), *columns)


def join_banks(banks: Sequence[MaskBank]) -> MaskBank:
    """Concatenate banks of one image."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(bank, name) for bank in banks])

    return MaskBank(
        size_hw=banks[0].size_hw,
        rle=tuple(each for bank in banks for each in bank.rle),
        boxes_xyxy=joined("boxes_xyxy"),
        areas=joined("areas"),
        predicted_iou=joined("predicted_iou"),
        stability_score=joined("stability_score"),
        similarity=joined("similarity"),
        mask_embedding=joined("mask_embedding"),
    )


def _tensors(prompts: Sequence[Prompt], frame: InputFrame, device: torch.device) -> Prompts:
    """Return prompts of one kind as tensors in pixels of the network's input."""
    points = labels = boxes = None
    if prompts[0].points:
        clicks = np.array([prompt.points for prompt in prompts], dtype=np.float64)  # (N, K, 3)
        points = frame.points_to_input(clicks[..., :2]).to(device)
        labels = torch.from_numpy(clicks[..., 2]).float().to(device)
    if prompts[0].box is not None:
        corners = np.array([prompt.box for prompt in prompts], dtype=np.float64)
        boxes = frame.boxes_to_input(corners).to(device)
    return Prompts(
        image_index=torch.zeros(len(prompts), dtype=torch.long, device=device),
        points=points,
        point_labels=labels,
        boxes=boxes,
    )
