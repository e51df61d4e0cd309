"""Trainer of the detector's second phase: model, moving average of its weights, optimizer.

`validate` measures the averaged weights on scenes that are not used for training.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MMGroundingDinoForObjectDetection, PreTrainedTokenizerBase

from smallworld.scenes import Scene, compose_scene
from smallworld.world import World
from training.data_parallel import Ranks
from training.detector.data import DetectionBatch, Vocabulary
from training.detector.losses import Words, detection_loss, phrase_accuracy, run_detector, total
from training.detector.quality import PhraseBoxes, SceneScores, choose_threshold, score_scenes
from training.detector.recipe import DetectorRecipe
from training.trainer import Trainer, cosine, scale_rates
from unspoken.model.detector.grounding_dino import (
    TEXT_PREFIX,
    SmallDetectorConfig,
    build_prompt,
    prepare_pixels,
    score_phrases,
)

VALIDATION_SEED = 300_000_000  # scenes used by neither training nor a bench
MIN_SCORE = 0.02  # lower scores are dropped


class DetectorTrainer(Trainer):
    """Model, moving average and optimizer of the second phase; one `step` a batch."""

    def __init__(
        self,
        recipe: DetectorRecipe,
        model: MMGroundingDinoForObjectDetection,
        *,
        word_vectors: Tensor,
        num_wholes: int,
    ) -> None:
        self.recipe = recipe
        self.word_vectors = word_vectors  # (V, C): text encoder output, before the projection
        self.num_wholes = num_wholes
        self.model = model.train()
        learned = {n: p for n, p in model.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(
            _groups(learned, recipe), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
        )
        super().__init__(model, learned, optimizer, ema_decay=recipe.ema_decay)
        self.progress = 0.0

    def step(self, batch: DetectionBatch, *, progress: float, ranks: Ranks) -> dict[str, float]:
        """Run one update in all processes; `progress` is the elapsed share of the time."""
        recipe = self.recipe
        output = run_detector(self.model, batch)
        vectors = self.model.model.text_projection(self.word_vectors)
        words = Words(F.normalize(vectors, dim=-1), self.num_wholes)
        terms = detection_loss(output, batch, words=words, config=recipe.loss)
        loss = total(terms)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        ranks.average_gradients(self.learned.values())
        self.progress = ranks.of_first(progress)
        warmup = min(1.0, (self.num_steps + 1) / recipe.warmup_steps)
        scale_rates(self.optimizer, warmup * max(0.02, cosine(self.progress)))
        nn.utils.clip_grad_norm_(self.learned.values(), recipe.clip_norm)
        self.finish_step()
        figures = {name: value.item() for name, value in terms.items()}
        return figures | {"loss": loss.item(), "right": phrase_accuracy(output, batch)}

    @contextmanager
    def averaged(self) -> Iterator[MMGroundingDinoForObjectDetection]:
        """Yield the model in eval mode with the averaged weights; restore it after the block."""
        with self.average.in_place():
            yield self.model.eval()
        self.model.train()

    def state(self) -> dict[str, Any]:
        """Return the content of a checkpoint, without the frozen text encoder."""
        state = super().state() | {"progress": self.progress}
        state["model"] = {n: t for n, t in state["model"].items() if not n.startswith(TEXT_PREFIX)}
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        frozen = {n: t for n, t in self.model.state_dict().items() if n.startswith(TEXT_PREFIX)}
        super().load_state(state | {"model": frozen | state["model"]})
        self.progress = state["progress"]


def _groups(learned: Mapping[str, nn.Parameter], recipe: DetectorRecipe) -> list[dict[str, object]]:
    rates: dict[float, list[nn.Parameter]] = {}
    for name, parameter in learned.items():
        rate = recipe.lr
        if ".backbone." in name:
            rate = recipe.backbone_lr
        elif "text_projection" in name:
            rate = recipe.text_lr
        rates.setdefault(rate, []).append(parameter)
    return [{"params": group, "lr": rate, "base_lr": rate} for rate, group in rates.items()]


def validation_scenes(count: int) -> list[Scene]:
    """Compose scenes of trained classes in the twemoji style, unused by training and benches."""
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
    """Return the recall of wholes and parts at the threshold that 10 % of absent labels reach."""
    with trainer.averaged() as model:

        def ask(image: np.ndarray, phrases: Sequence[str]) -> PhraseBoxes:
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
    """Return the share of wholes with a box at IoU .5 and a score of at least MIN_SCORE."""
    return float((np.concatenate([each.wholes for each in scores]) > 0).mean())


@torch.no_grad()
def answer(
    model: MMGroundingDinoForObjectDetection,
    image: np.ndarray,
    phrases: Sequence[str],
    *,
    config: SmallDetectorConfig,
    tokenizer: PreTrainedTokenizerBase,
) -> PhraseBoxes:
    """Detect phrases in one picture (H, W, 3) uint8. Each query may give a box for each phrase."""
    prompt = build_prompt([phrases], tokenizer=tokenizer)
    output = model(
        pixel_values=prepare_pixels([image], config=config),
        input_ids=prompt.input_ids,
        attention_mask=prompt.attention_mask,
    )
    scores = score_phrases(output.logits, prompt.phrase_maps)[0]  # (Q, P)
    queries, asked = (scores >= MIN_SCORE).nonzero(as_tuple=True)
    return PhraseBoxes(
        boxes_xyxy=_to_pixels(output.pred_boxes[0], image)[queries.numpy()],
        phrases=asked.numpy(),
        scores=scores[queries, asked].numpy(),
    )


def _to_pixels(boxes_cxcywh_norm: Tensor, image: np.ndarray) -> np.ndarray:
    """Convert (Q, 4) centre boxes in [0, 1] to corner boxes in the picture's pixels."""
    height, width = image.shape[:2]
    center, extent = boxes_cxcywh_norm[:, :2], boxes_cxcywh_norm[:, 2:]
    corners = torch.cat([center - extent / 2, center + extent / 2], dim=1)
    return (corners * torch.tensor([width, height, width, height])).numpy()
