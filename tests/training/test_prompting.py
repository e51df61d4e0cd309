"""Prompt simulation: number of turns, places of clicks, and prompts kept between turns."""

import pytest
import torch

from training.data.batches import MaskUnits
from training.sam.prompting import PromptSimulation, jitter_boxes
from unspoken.model.sam.config import sam_config
from unspoken.model.sam.semantic_decoder import DecoderOutput

SAM = sam_config("tiny")
SIDE = SAM.mask_side


def units() -> MaskUnits:
    masks = torch.zeros(2, SIDE, SIDE)
    masks[0, 4:12, 4:12] = 1
    masks[1, 20:30, 2:8] = 1
    return MaskUnits(
        image_index=torch.tensor([0, 0]),
        masks=masks,
        known=torch.ones_like(masks, dtype=torch.bool),
        boxes=torch.tensor([[8.0, 8, 24, 24], [4, 40, 16, 60]]),
        points=torch.tensor([[10.0, 10], [6, 50]]),
        noise=torch.zeros(2, 4),
    )


def simulate(simulation: str, *, starts_with_box: bool, predicted: torch.Tensor) -> list:
    prompting = PromptSimulation(
        units(),
        sam=SAM,
        simulation=simulation,
        starts_with_box=starts_with_box,
        box_noise=0.1,
        generator=torch.Generator().manual_seed(0),
    )
    turns = []
    for turn in prompting.turns():
        turns.append(turn)
        num = 3 if turn.multimask_output else 1
        logits = predicted[:, None].expand(-1, num, -1, -1)
        prompting.update(
            DecoderOutput(logits, torch.rand(2, num), torch.zeros(2, num, 4), logits[..., 0, 0])
        )
    return turns


NOTHING = torch.full((2, SIDE, SIDE), -5.0)


@pytest.mark.parametrize(("simulation", "num_turns"), [("first", 1), ("fast", 5), ("full", 11)])
def test_a_simulation_has_as_many_turns_as_its_name_says(simulation, num_turns):
    assert len(simulate(simulation, starts_with_box=False, predicted=NOTHING)) == num_turns


def test_only_a_lone_point_asks_for_three_masks():
    turns = simulate("fast", starts_with_box=False, predicted=NOTHING)
    assert [turn.multimask_output for turn in turns] == [True, False, False, False, False]
    turns = simulate("fast", starts_with_box=True, predicted=NOTHING)
    assert not any(turn.multimask_output for turn in turns)


def test_clicks_fall_on_what_is_missing_as_positive_points():
    turns = simulate("fast", starts_with_box=True, predicted=NOTHING)
    last = turns[-1].prompts
    assert last.boxes is not None
    assert last.points.shape == (2, 3, 2)
    assert (last.point_labels == 1).all()
    cells = ((last.points + 0.5) / (SAM.image_size / SIDE)).long()
    for unit in range(2):
        assert all(units().masks[unit, y, x] == 1 for x, y in cells[unit].tolist())


def test_clicks_on_what_is_too_much_are_negative():
    everything = torch.full((2, SIDE, SIDE), 5.0)
    turns = simulate("fast", starts_with_box=True, predicted=everything)
    assert (turns[-1].prompts.point_labels == 0).all()


def test_a_right_answer_is_still_clicked_inside_the_mask():
    right = units().masks * 10 - 5
    turns = simulate("fast", starts_with_box=True, predicted=right)
    assert (turns[-1].prompts.point_labels == 1).all()


def test_the_turn_without_a_new_prompt_gets_the_last_answer():
    turns = simulate("fast", starts_with_box=False, predicted=NOTHING)
    assert turns[0].prompts.mask_logits is None
    assert turns[-1].prompts.points.shape == turns[-2].prompts.points.shape
    assert torch.equal(turns[-1].prompts.mask_logits[:, 0], NOTHING)


def test_jittered_boxes_stay_in_the_picture_and_near_the_box():
    boxes = torch.tensor([[0.0, 0, 60, 60]])
    moved = jitter_boxes(boxes, torch.tensor([[-5.0, 5, 100, -100]]), share=0.1, side=64)
    assert (moved >= 0).all()
    assert (moved <= 64).all()
    assert (moved - boxes).abs().max() <= 64 * 20 / 1024
