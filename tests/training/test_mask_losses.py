"""SAM's loss: only the best of three masks learns, right masks cost nothing, padding is ignored."""

import pytest
import torch

from training.sam.mask_losses import MaskLossConfig, mask_loss
from unspoken.model.sam.semantic_decoder import DecoderOutput

CONFIG = MaskLossConfig()
SIDE = 8


def answer(mask_logits: torch.Tensor, iou: torch.Tensor | None = None) -> DecoderOutput:
    shape = mask_logits.shape[:2]
    quality = torch.zeros(shape) if iou is None else iou
    return DecoderOutput(mask_logits, quality, torch.zeros(*shape, 4), torch.zeros(shape))


def square(low: int, high: int) -> torch.Tensor:
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, low:high, low:high] = 1
    return mask


EVERYWHERE = torch.ones(1, SIDE, SIDE, dtype=torch.bool)


def logits_of(mask: torch.Tensor) -> torch.Tensor:
    return (mask * 2 - 1)[:, None] * 30


def test_a_perfect_mask_with_a_perfect_guess_costs_nothing():
    truth = square(2, 6)
    loss = mask_loss(answer(logits_of(truth), torch.ones(1, 1)), truth, EVERYWHERE, config=CONFIG)
    assert float(torch.stack(list(loss.terms.values())).sum()) == pytest.approx(0, abs=1e-6)


def test_only_the_best_of_three_masks_is_taught():
    truth = square(2, 6)
    logits = torch.cat(
        [logits_of(square(0, 2)), logits_of(square(2, 5)), logits_of(square(4, 8))], 1
    )
    logits.requires_grad_()
    quality = torch.zeros(1, 3, requires_grad=True)
    loss = mask_loss(answer(logits, quality), truth, EVERYWHERE, config=CONFIG)
    torch.stack(list(loss.terms.values())).sum().backward()
    assert loss.best.tolist() == [1]
    assert logits.grad is not None
    assert quality.grad is not None
    assert logits.grad[0, [0, 2]].abs().sum() == 0
    assert logits.grad[0, 1].abs().sum() > 0
    assert (quality.grad[0] != 0).tolist() == [False, True, False]


def test_a_cell_that_is_half_covered_is_best_answered_by_a_half():
    truth = square(2, 6)
    truth[:, :, 2] *= 0.5

    def cost(half: float) -> float:
        logits = logits_of(truth.round())
        logits[0, 0, 2:6, 2] = half
        loss = mask_loss(answer(logits), truth, EVERYWHERE, config=CONFIG)
        return float(loss.terms["focal"] + loss.terms["dice"])

    assert cost(0.0) < min(cost(-2.0), cost(2.0)) < min(cost(-30.0), cost(30.0))


def test_what_lies_in_the_padding_counts_for_nothing():
    truth, known = square(1, 3), EVERYWHERE.clone()
    known[:, 5:] = False
    right = logits_of(truth)
    loud = right.clone()
    loud[:, :, 5:] = 30
    first = mask_loss(answer(right), truth, known, config=CONFIG)
    second = mask_loss(answer(loud), truth, known, config=CONFIG)
    assert first.terms == second.terms
    assert torch.equal(first.iou, second.iou)


def test_no_prompts_give_a_loss_of_zero():
    nothing = torch.zeros(0, 3, SIDE, SIDE)
    empty = torch.zeros(0, SIDE, SIDE)
    loss = mask_loss(answer(nothing), empty, empty > 0, config=CONFIG)
    assert float(torch.stack(list(loss.terms.values())).sum()) == 0
