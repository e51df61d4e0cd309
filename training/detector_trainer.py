"""The second stage's state and step: model, moving average of its weights, optimizer.

`validate` asks scenes that no step sees, with the averaged weights.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MMGroundingDinoForObjectDetection, PreTrainedTokenizerBase

from smallworld.scenes import Scene, compose_scene
from smallworld.world import World
from training.detection_data import DetectionBatch, Vocabulary
from training.detection_losses import Words, detection_loss, run_detector, share_right, total
from training.detection_quality import Answer, SceneScores, choose_threshold, score_scenes
from training.detector_recipe import DetectorRecipe
from training.gradient_exchange import GradientExchange
from training.moving_average import MovingAverage
from unspoken.model.grounding_dino import (
    TEXT_PREFIX,
    SmallDetectorConfig,
    build_prompt,
    prepare_pixels,
    score_phrases,
)

VALIDATION_SEED = 300_000_000  # scenes that neither training nor a bench composes
MIN_SCORE = 0.02  # answers below are not worth carrying


class DetectorTrainer:
    """Model, moving average and optimizer of the second stage; one `step` a batch."""

    def __init__(
        self,
        recipe: DetectorRecipe,
        model: MMGroundingDinoForObjectDetection,
        *,
        word_vectors: Tensor,
        num_wholes: int,
    ) -> None:
        self.recipe = recipe
        self.word_vectors = word_vectors  # (V, C): the text encoder's, before the projection
        self.num_wholes = num_wholes
        self.model = model.train()
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.average = MovingAverage(self.parameters, decay=recipe.ema_decay)
        self.optimizer = torch.optim.AdamW(
            self._groups(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
        )
        self.num_steps = 0
        self.progress = 0.0

    def _groups(self) -> list[dict[str, object]]:
        rates: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.parameters.items():
            rate = self.recipe.lr
            if ".backbone." in name:
                rate = self.recipe.backbone_lr
            elif "text_projection" in name:
                rate = self.recipe.text_lr
            rates.setdefault(rate, []).append(parameter)
        return [{"params": group, "lr": rate, "base_lr": rate} for rate, group in rates.items()]

    def step(
        self, batch: DetectionBatch, *, progress: float, exchange: GradientExchange
    ) -> dict[str, float]:
        """One update of all processes; `progress` is the share of the time that is over."""
        recipe = self.recipe
        output = run_detector(self.model, batch)
        vectors = self.model.model.text_projection(self.word_vectors)
        words = Words(F.normalize(vectors, dim=-1), self.num_wholes)
        terms = detection_loss(output, batch, words=words, config=recipe.loss)
        loss = total(terms)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.progress = exchange.average(self.parameters.values(), progress=progress)
        warmup = min(1.0, (self.num_steps + 1) / recipe.warmup_steps)
        rate = warmup * max(0.02, 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress))))
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate
        nn.utils.clip_grad_norm_(self.parameters.values(), recipe.clip_norm)
        self.optimizer.step()
        self.num_steps += 1
        self.average.follow(self.num_steps)
        figures = {name: value.item() for name, value in terms.items()}
        return figures | {"loss": loss.item(), "right": share_right(output, batch)}

    @contextmanager
    def averaged(self) -> Iterator[MMGroundingDinoForObjectDetection]:
        """The model in eval mode with the averaged weights, inside the block."""
        with self.average.in_place():
            yield self.model.eval()
        self.model.train()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds; the frozen text encoder is not in it."""
        weights = self.model.state_dict()
        return {
            "model": {n: t for n, t in weights.items() if not n.startswith(TEXT_PREFIX)},
            "average": self.average.weights,
            "optimizer": self.optimizer.state_dict(),
            "num_steps": self.num_steps,
            "progress": self.progress,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.model.load_state_dict(state["model"], strict=False)
        self.average.load(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.num_steps = state["num_steps"]
        self.progress = state["progress"]


def validation_scenes(count: int) -> list[Scene]:
    """Scenes of the trained classes in the twemoji style, which no step and no bench sees."""
    world = World.load(styles=("twemoji",), split="train")
    return [compose_scene(world, seed=VALIDATION_SEED + i) for i in range(count)]


def validate(
    trainer: DetectorTrainer,
    scenes: Sequence[Scene],
    *,
    config: SmallDetectorConfig,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
) -> dict[str, float]:
    """Recall of wholes and parts at the threshold that a tenth of absent labels reaches."""
    with trainer.averaged() as model:

        def ask(image: np.ndarray, phrases: Sequence[str]) -> Answer:
            return answer(model, image, phrases, config=config, tokenizer=tokenizer)

        scores = score_scenes(scenes, ask, vocabulary=vocabulary, seed=VALIDATION_SEED)
    threshold = choose_threshold(scores)

    def recall(groups: list[np.ndarray]) -> float:
        return float((np.concatenate(groups) >= threshold).mean())

    return {
        "val_wholes": recall([each.wholes for each in scores]),
        "val_parts": recall([each.parts for each in scores]),
        "val_found": _found(scores),
        "threshold": threshold,
    }


def _found(scores: Sequence[SceneScores]) -> float:
    """Share of wholes that any box at IoU .5 gives any score worth carrying."""
    return float((np.concatenate([each.wholes for each in scores]) > 0).mean())


@torch.no_grad()
def answer(
    model: MMGroundingDinoForObjectDetection,
    image: np.ndarray,
    phrases: Sequence[str],
    *,
    config: SmallDetectorConfig,
    tokenizer: PreTrainedTokenizerBase,
) -> Answer:
    """One picture (H, W, 3) uint8 asked for phrases; every query answers every phrase."""
    prompt = build_prompt([phrases], tokenizer=tokenizer)
    output = model(
        pixel_values=prepare_pixels([image], config=config),
        input_ids=prompt.input_ids,
        attention_mask=prompt.attention_mask,
    )
    scores = score_phrases(output.logits, prompt.phrase_maps)[0]  # (Q, P)
    queries, asked = (scores >= MIN_SCORE).nonzero(as_tuple=True)
    return Answer(
        boxes_xyxy=_to_pixels(output.pred_boxes[0], image)[queries.numpy()],
        phrases=asked.numpy(),
        scores=scores[queries, asked].numpy(),
    )


def _to_pixels(boxes_cxcywh_norm: Tensor, image: np.ndarray) -> np.ndarray:
    """(Q, 4) centre boxes in [0, 1] -> corner boxes in the picture's pixels."""
    height, width = image.shape[:2]
    center, extent = boxes_cxcywh_norm[:, :2], boxes_cxcywh_norm[:, 2:]
    corners = torch.cat([center - extent / 2, center + extent / 2], dim=1)
    return (corners * torch.tensor([width, height, width, height])).numpy()
