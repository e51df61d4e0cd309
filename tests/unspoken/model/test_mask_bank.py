"""The mask bank: same masks as with single prompts; filtered, deduplicated, bounded."""

import numpy as np
import pytest
import torch

from tests.services.segmenter.tiny import BANK, tiny_sam
from unspoken.errors import InvalidConfig
from unspoken.imaging.boxes import box_iou
from unspoken.imaging.masks import decode_rle
from unspoken.model.mask_bank import (
    MaskBankBuilder,
    MaskBankConfig,
    build_mask_bank,
    grid_points,
    mask_boxes,
    stability_scores,
)
from unspoken.model.sam.config import sam_config
from unspoken.model.sam.mask_upscaling import MaskUpscaler
from unspoken.model.sam.semantic_sam import Prompts, SemanticSam

SIZE_HW = (30, 50)


@pytest.fixture(scope="module")
def model() -> SemanticSam:
    return tiny_sam().model


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def upscaler(model, pixels) -> MaskUpscaler:
    return MaskUpscaler.of(pixels, model.config.sam)


@pytest.fixture(scope="module")
def embedding(model, upscaler, pixels):
    with torch.inference_mode():
        return model.embed_images([upscaler.frame.to_input(pixels)])


def test_a_filter_that_nothing_passes_gives_an_empty_bank(model, embedding, upscaler):
    bank = build_mask_bank(model, embedding, upscaler, MaskBankConfig(predicted_iou_threshold=1e9))
    assert len(bank) == 0 and bank.masks().shape == (0, *SIZE_HW)
    assert bank.mask_embedding.shape == (0, 768) and bank.boxes_xyxy.shape == (0, 4)


def test_rows_of_a_bank_are_what_the_decoder_says_of_single_clicks(model, embedding, upscaler):
    config = MaskBankConfig(
        points_per_side=2,
        prompts_per_batch=3,
        predicted_iou_threshold=-100,
        stability_threshold=0,
        nms_iou=1.0,
    )
    bank = build_mask_bank(model, embedding, upscaler, config)
    masks, vectors = [], []
    for point in upscaler.frame.points_to_input(grid_points(2, SIZE_HW)):
        with torch.inference_mode():
            output = model.decode(
                embedding,
                Prompts(torch.zeros(1, dtype=torch.long), point.view(1, 1, 2), torch.ones(1, 1)),
                multimask_output=True,
            )
        masks += list(upscaler.masks(output.mask_logits[0]).numpy())
        vectors += list(output.mask_embedding[0].numpy())
    shown = {mask.tobytes() for mask in masks if mask.any()}
    assert {mask.tobytes() for mask in bank.masks()} <= shown
    assert len(bank) >= 1
    for vector in bank.mask_embedding:
        assert min(np.abs(vector - other).max() for other in vectors) < 1e-4


def test_what_a_bank_says_of_its_masks_is_true(model, embedding, upscaler):
    bank = build_mask_bank(model, embedding, upscaler, BANK)
    assert len(bank) > 3
    masks = bank.masks()
    assert bank.areas.tolist() == masks.sum((1, 2)).tolist() and (bank.areas > 0).all()
    for mask, box in zip(masks, bank.boxes_xyxy, strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [
            columns.min(), rows.min(), columns.max() + 1, rows.max() + 1,
        ]  # fmt: skip
    assert np.allclose(np.linalg.norm(bank.mask_embedding, axis=1), 1, atol=1e-4)
    assert np.array_equal(bank.masks([2, 0]), masks[[2, 0]])
    assert np.array_equal(decode_rle(bank.rle, SIZE_HW), masks)
    assert bank.num_bytes < len(bank) * (768 * 4 + 1000)


def test_masks_that_overlap_are_kept_once(model, embedding, upscaler):
    loose = build_mask_bank(model, embedding, upscaler, BANK)
    strict = MaskBankConfig(
        points_per_side=4, predicted_iou_threshold=-100, stability_threshold=0, nms_iou=0.3
    )
    fewer = build_mask_bank(model, embedding, upscaler, strict)
    assert 0 < len(fewer) < len(loose)
    overlaps = box_iou(fewer.boxes_xyxy, fewer.boxes_xyxy) - np.eye(len(fewer))
    assert overlaps.max() < 0.6  # boxes of the low resolution are a few pixels coarser


def test_thresholds_hold_for_every_mask_that_stays(model, embedding, upscaler):
    every = build_mask_bank(model, embedding, upscaler, BANK)
    middle = float(np.median(every.stability_score))
    some = build_mask_bank(
        model,
        embedding,
        upscaler,
        MaskBankConfig(points_per_side=4, predicted_iou_threshold=-100, stability_threshold=middle),
    )
    assert len(some) > 0 and (some.stability_score >= middle).all()


def test_few_candidates_at_a_time_bound_the_memory_and_change_little(model, embedding, upscaler):
    config = MaskBankConfig(
        points_per_side=6, predicted_iou_threshold=-100, stability_threshold=0, max_candidates=8
    )
    bank = build_mask_bank(model, embedding, upscaler, config)
    overlaps = box_iou(bank.boxes_xyxy, bank.boxes_xyxy) - np.eye(len(bank))
    assert len(bank) > 3 and overlaps.max() < 0.9


def test_steps_are_small_and_end(model, embedding, upscaler):
    config = MaskBankConfig(points_per_side=4, prompts_per_batch=5)
    builder = MaskBankBuilder(model, embedding, upscaler, config)
    steps = 1
    while not builder.step():
        steps += 1
    assert steps == 5  # four batches of clicks, and the end
    assert builder.step() and builder.bank is builder.bank


def test_stability_is_the_share_that_stays_when_the_threshold_rises():
    logits = torch.tensor([[[2.0, 0.5, -0.5, -2.0]], [[-3.0, -3.0, -3.0, -3.0]]])
    assert stability_scores(logits, offset=1.0).tolist() == pytest.approx([1 / 3, 0])
    boxes, filled = mask_boxes(logits > 0)
    assert boxes[0].tolist() == [0, 0, 2, 1] and filled.tolist() == [True, False]


def test_the_grid_and_the_batch_follow_the_networks_size():
    config, cpu = MaskBankConfig(), torch.device("cpu")
    assert config.side_of(sam_config("vit_b")) == 32 and config.side_of(sam_config("small")) == 16
    assert config.batch_of(sam_config("vit_b"), cpu) < config.batch_of(sam_config("small"), cpu)
    assert config.batch_of(sam_config("vit_h"), torch.device("cuda")) == 64
    points = grid_points(2, (10, 20))
    assert points.tolist() == [[5, 2.5], [15, 2.5], [5, 7.5], [15, 7.5]]
    with pytest.raises(InvalidConfig, match="points_per_side"):
        MaskBankConfig(points_per_side=0)
