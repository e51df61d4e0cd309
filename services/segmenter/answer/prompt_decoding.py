"""Decode the masks of prompts in batches.

Prompts of one kind are decoded together. A single click is ambiguous and gives three masks; every
other prompt gives one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from services.segmenter.answer.prompts import MaskPrompt
from unspoken.model.mask_bank import MaskBank, MaskBankConfig, bank_of_output, empty_bank
from unspoken.model.sam.input_frame import InputFrame
from unspoken.model.sam.mask_upscaling import MaskUpscaler
from unspoken.model.sam.semantic_sam import Prompts, SemanticSam


@dataclass(frozen=True)
class PromptMasks:
    """Masks of prompts in no particular order. An empty mask has the area 0.

    Mask i of the bank is number `mask_indices[i]` of the masks of prompt `prompt_indices[i]`, which
    belongs to `owners[i]`.
    """

    bank: MaskBank
    owners: np.ndarray
    prompt_indices: np.ndarray
    mask_indices: np.ndarray


@torch.inference_mode()
def decode_prompts(
    model: SemanticSam,
    image_embedding: Tensor,
    upscaler: MaskUpscaler,
    prompts: Sequence[MaskPrompt],
    *,
    config: MaskBankConfig,
) -> PromptMasks:
    """Decode the masks of all prompts: three for a single click, one for any other prompt.

    image_embedding: (1, C, cells, cells).
    """
    frame = upscaler.frame
    embedding = image_embedding.to(model.device).float()
    batch = config.batch_of(model.config.sam, model.device)
    banks: list[MaskBank] = []
    rows: list[tuple[int, int, int]] = []
    by_kind = sorted(range(len(prompts)), key=lambda place: (prompts[place].kind, place))
    for _, places in groupby(by_kind, key=lambda place: prompts[place].kind):
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
        return PromptMasks(
            empty_bank(frame.original_size_hw, model.config.semantic.text_dim), *columns
        )
    return PromptMasks(join_banks(banks), *columns)


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


def _tensors(prompts: Sequence[MaskPrompt], frame: InputFrame, device: torch.device) -> Prompts:
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
