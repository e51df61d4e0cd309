"""Prompt simulation for SAM's training: a first point or box, then clicks in the error region.

`full` is SAM's own: eleven decoder calls per mask, two of them without a new prompt
(arXiv:2304.02643, appendix A, 'Training algorithm'). `fast` is a first call, three corrections and
one call without a new prompt. `first` is the first call alone.

Legend: N units, K points so far, s side of the mask logits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from training.data.batches import MaskUnits
from unspoken.model.sam.config import SamConfig
from unspoken.model.sam.semantic_decoder import DecoderOutput
from unspoken.model.sam.semantic_sam import Prompts

Simulation = Literal["first", "fast", "full"]

MAX_BOX_NOISE = 20 / 1024  # of the input's side
_CORRECTIONS: dict[Simulation, int] = {"first": 0, "fast": 3, "full": 8}


@dataclass(frozen=True)
class Turn:
    """One call of the decoder: its prompts, and True for three masks instead of one."""

    prompts: Prompts
    multimask_output: bool


class _AllPrompts(NamedTuple):
    """The accumulated prompts of all units."""

    points: Tensor | None  # (N, K, 2)
    point_labels: Tensor | None  # (N, K)
    boxes: Tensor | None  # (N, 4)


def jitter_boxes(boxes: Tensor, noise: Tensor, *, share: float, side: int) -> Tensor:
    """Move each corner by noise times a share of the box's side: (N, 4) xyxy -> (N, 4)."""
    extent = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    limit = MAX_BOX_NOISE * side
    moved = (boxes + (noise * share * extent).clamp(-limit, limit)).clamp(0, side)
    low = torch.minimum(moved[:, :2], moved[:, 2:])
    return torch.cat([low, torch.maximum(moved[:, :2], moved[:, 2:])], dim=1)


class PromptSimulation:
    """Simulated interactive prompts for a batch of masks.

    Each turn prompts the decoder; `update` stores its output; the next turn adds a click in the
    error region. All units of a batch start with a box, or all with a point, because SAM pads a
    missing box with a token that changes the output.
    """

    def __init__(
        self,
        units: MaskUnits,
        *,
        sam: SamConfig,
        simulation: Simulation,
        starts_with_box: bool,
        box_noise: float,
        generator: torch.Generator,
    ) -> None:
        self._units = units
        self._masks = units.masks > 0.5
        self._sam = sam
        self._generator = generator
        self._num_corrections = _CORRECTIONS[simulation]
        self._plain = _plain_turns(simulation, self._num_corrections, generator)
        if starts_with_box:
            boxes = jitter_boxes(units.boxes, units.noise, share=box_noise, side=sam.image_size)
            self._prompts = _AllPrompts(None, None, boxes)
        else:
            ones = torch.ones(len(units.points), 1, device=units.points.device)
            self._prompts = _AllPrompts(units.points[:, None], ones, None)
        self._mask_logits: Tensor | None = None

    def turns(self) -> Iterator[Turn]:
        """Yield the decoder calls in order. Call `update` with each output before the next one."""
        # A box is not ambiguous, so it asks for a single mask, as in serving.
        yield self._turn(multimask_output=self._prompts.boxes is None)
        for number in range(self._num_corrections + len(self._plain)):
            if number not in self._plain:
                self._click()
            yield self._turn(multimask_output=False)

    def update(self, output: DecoderOutput) -> None:
        """Keep the logits of the mask with the highest predicted IoU, to prompt the next turn."""
        best = output.iou_predictions.argmax(1)
        rows = torch.arange(len(best), device=best.device)
        self._mask_logits = output.mask_logits[rows, best].detach()[:, None]  # (N, 1, s, s)

    def _turn(self, *, multimask_output: bool) -> Turn:
        so_far = self._prompts
        prompts = Prompts(
            image_index=self._units.image_index,
            points=so_far.points,
            point_labels=so_far.point_labels,
            boxes=so_far.boxes,
            mask_logits=self._mask_logits,
        )
        return Turn(prompts, multimask_output)

    def _click(self) -> None:
        """Add one random point of the error region to each unit's prompts."""
        assert self._mask_logits is not None, "`update` was called"
        predicted = self._mask_logits[:, 0] > 0
        wrong = (predicted != self._masks) & self._units.known
        # Without an error, draw any cell of the mask.
        nothing = ~wrong.flatten(1).any(1)
        wrong[nothing] = (
            self._masks[nothing] | ~self._masks[nothing].flatten(1).any(1)[:, None, None]
        )
        weights = wrong.flatten(1).float()
        # Draw on the CPU, so that every device gets the same clicks.
        drawn = torch.multinomial(weights.cpu(), 1, generator=self._generator)[:, 0]
        chosen = drawn.to(weights.device)  # (N,)
        side = self._sam.mask_side
        cell = self._sam.image_size / side
        places = torch.stack([chosen % side, chosen // side], dim=1).float()
        points = (places + 0.5) * cell - 0.5  # the prompt encoder adds the half again
        labels = self._masks.flatten(1).gather(1, chosen[:, None]).float()
        old = self._prompts
        if old.points is not None and old.point_labels is not None:
            points_so_far = torch.cat([old.points, points[:, None]], dim=1)
            labels = torch.cat([old.point_labels, labels], dim=1)
        else:
            points_so_far = points[:, None]
        self._prompts = _AllPrompts(points_so_far, labels, old.boxes)


def _plain_turns(
    simulation: Simulation, num_corrections: int, generator: torch.Generator
) -> frozenset[int]:
    """Return the indices of the turns (after the first) that add no new prompt.

    `full` has one at a random place and one at the end, `fast` one at the end.
    """
    match simulation:
        case "first":
            return frozenset()
        case "fast":
            return frozenset({num_corrections})
        case "full":
            anywhere = int(torch.randint(num_corrections, (1,), generator=generator))
            return frozenset({anywhere, num_corrections + 1})
