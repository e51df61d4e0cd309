"""Train Semantic-SAM by a recipe: writes checkpoints, metrics, sample pictures and weights.

    unspoken train small-sam --start W --stem DETECTOR --sa1b DIR --out DIR
    torchrun --nproc-per-node 2 -m -- cli.main train small-semantic --start W --run RUN ...

`OUT/checkpoint.pt` is replaced atomically every few minutes. The same command resumes from it with
exactly the next batch. `OUT/metrics.jsonl` gets a line every few steps, `OUT/samples/` pictures.
The final `OUT/weights.safetensors` can be served by the segmenter. If the run started from a SAM of
the same sizes, `OUT/delta.safetensors` contains only the tensors that differ from it.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from training.data.batches import TrainBatch, TrainData
from training.data.box_pictures import BoxPictures
from training.data.mask_pictures import MaskPictures
from training.data_parallel import ONE_PROCESS, Ranks, join_ranks
from training.sam.kept_embeddings import KeptEmbeddings
from training.sam.label_vectors import LabelVectors
from training.sam.recipe import SamRecipe
from training.sam.sample_pictures import draw_samples
from training.sam.starting_weights import load_start
from training.sam.trainer import SamTrainer
from training.trainer import save_checkpoint, stream
from unspoken.errors import InvalidConfig
from unspoken.model.sam.checkpoint import (
    SemanticInfo,
    read_header,
    save_delta,
    save_weights,
)
from unspoken.model.sam.config import SemanticSamConfig
from unspoken.progress import NO_PROGRESS, Progress, Stage
from unspoken.runs.dataset.manifest import read_text_encoder
from unspoken.runs.exports.source import picture_root

CHECKPOINT, METRICS, WEIGHTS, DELTA = (
    "checkpoint.pt",
    "metrics.jsonl",
    "weights.safetensors",
    "delta.safetensors",
)


@dataclass(frozen=True, kw_only=True)
class TrainFiles:
    """Input and output paths of a run.

    data: a labelling run's dataset folder.
    pictures: folder of its pictures; None if they are where the labelling run read them.
    sa1b: an SA-1B folder.
    sam, start: an official checkpoint, or our own weights, to start from; else random weights.
    stem: the small detector's folder; its backbone becomes the stem if the starting weights have
    none.
    named_only: use only boxes of labels that captions name.
    """

    out: Path
    data: Path | None = None
    pictures: Path | None = None
    sa1b: Path | None = None
    sam: Path | None = None
    start: Path | None = None
    stem: Path | None = None
    named_only: bool = False


def train(
    recipe: SamRecipe,
    files: TrainFiles,
    *,
    ranks: Ranks = ONE_PROCESS,
    progress: Progress = NO_PROGRESS,
) -> Path:
    """Train to the recipe's last step; resume from the checkpoint in `out` if there is one.

    Returns the file of the final weights. Raises InvalidConfig, NotFound, MissingWeights.
    """
    files.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    with progress.stage("loading weights and data"):
        mask_pictures, box_pictures = _open_data(recipe, files)
        loaded = load_start(recipe.network, sam=files.sam, start=files.start, stem=files.stem)
        base = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    label_vectors = None
    if box_pictures is not None:
        label_vectors = LabelVectors(
            box_pictures.vectors,
            box_pictures.label_counts,
            center=recipe.text_center == "mean",
            config=recipe.semantic_loss,
        )
    model = loaded.model
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.rank % torch.cuda.device_count())
        model = model.cuda()
    kept = KeptEmbeddings(files.out / "embeddings", model) if recipe.keep_embeddings else None
    trainer = SamTrainer(recipe, model, label_vectors=label_vectors, ranks=ranks, embeddings=kept)
    if kept is not None and any(name.startswith("image_encoder.") for name in trainer.learned):
        raise InvalidConfig("embeddings cannot be kept while the image encoder learns")
    path = files.out / CHECKPOINT
    if path.exists():
        trainer.load_state(torch.load(path, map_location="cpu", weights_only=True))

    def data_of(rank: int) -> TrainData:
        return TrainData(
            recipe.batch,
            sam=recipe.network.sam,
            mask_pictures=mask_pictures,
            box_pictures=box_pictures,
            rank=rank,
            num_ranks=ranks.count,
        )

    pools = recipe.network.semantic.pools_masks and not loaded.info.semantic_trained
    if pools and not trainer.num_steps:
        trainer.standardise_pool(data_of(0)[0])  # all ranks use rank 0's batch
    what = f"resuming {recipe.name}" if trainer.num_steps else f"training {recipe.name}"
    with progress.stage(what, total=recipe.steps, unit="steps", done=trainer.num_steps) as stage:
        _run(trainer, data_of(ranks.rank), files, stage)
    if ranks.is_first:
        _write_weights(
            trainer, files, base=base, info=_info(recipe, files, loaded.info, label_vectors)
        )
    ranks.barrier()
    return files.out / WEIGHTS


def _open_data(
    recipe: SamRecipe, files: TrainFiles
) -> tuple[MaskPictures | None, BoxPictures | None]:
    batch = recipe.batch
    mask_pictures = box_pictures = None
    if batch.masks_per_step:
        if files.sa1b is None:
            raise InvalidConfig(f"{recipe.name} learns from masks: give an SA-1B folder (--sa1b)")
        mask_pictures = MaskPictures(
            files.sa1b, masks_per_picture=batch.masks_per_picture, seed=batch.seed
        )
    if batch.boxes_per_step:
        if files.data is None:
            raise InvalidConfig(
                f"{recipe.name} learns from a generated dataset: name a run (--run)"
            )
        box_pictures = BoxPictures(
            files.data,
            pictures=files.pictures or picture_root(files.data),
            boxes_per_picture=batch.boxes_per_picture,
            seed=batch.seed,
            named_only=files.named_only,
        )
    return mask_pictures, box_pictures


def _run(trainer: SamTrainer, data: TrainData, files: TrainFiles, stage: Stage) -> None:
    """Run the remaining steps; write metrics, samples and checkpoints."""
    recipe, ranks = trainer.recipe, trainer.ranks
    batches: Iterator[TrainBatch] = stream(
        data, first=trainer.num_steps * recipe.accumulate, num_workers=recipe.num_workers
    )
    saved = started = time.monotonic()
    first_step, num_summed, sums = trainer.num_steps, 0, dict[str, float]()
    while trainer.num_steps < recipe.steps:
        taken = [next(batches) for _ in range(recipe.accumulate)]
        figures = trainer.step(taken)
        if not ranks.is_first:
            continue
        stage.advance(note=f"loss {figures['loss']:.4f}")
        sums = {name: sums.get(name, 0.0) + value for name, value in figures.items()}
        num_summed += 1
        step = trainer.num_steps
        if step % recipe.log_every == 0 or step == recipe.steps:
            a_step = (time.monotonic() - started) / (step - first_step)
            means = {name: value / num_summed for name, value in sums.items()}
            _log(files.out, step=step, seconds_a_step=a_step, figures=means)
            sums, num_summed = {}, 0
        if step % recipe.sample_every == 0:
            path = files.out / "samples" / f"step-{step:06d}.png"
            with trainer.average.in_place():
                draw_samples(trainer.model, taken[0], path)
        if time.monotonic() - saved > recipe.checkpoint_every_s or step == recipe.steps:
            save_checkpoint(trainer.state(), files.out / CHECKPOINT)
            saved = time.monotonic()


def _info(
    recipe: SamRecipe, files: TrainFiles, before: SemanticInfo, label_vectors: LabelVectors | None
) -> SemanticInfo:
    """Describe the trained vectors: text encoder, templates, mean and training history."""
    history = {
        **before.history,
        recipe.name: {"steps": recipe.steps, "mix": _mix(recipe)},
    }
    if label_vectors is None or files.data is None:
        return replace(before, history=history)
    return SemanticInfo(
        semantic_trained=True,
        text_encoder=read_text_encoder(files.data),
        text_templates=("{}",),  # the dataset's vectors are those of the bare labels
        text_mean=label_vectors.mean,
        history=history,
    )


def _mix(recipe: SamRecipe) -> str:
    return f"{recipe.batch.masks_per_step}:{recipe.batch.boxes_per_step}"


def _write_weights(
    trainer: SamTrainer, files: TrainFiles, *, base: dict[str, Tensor], info: SemanticInfo
) -> None:
    with trainer.average.in_place():
        model = trainer.model.eval()
        save_weights(model, files.out / WEIGHTS, info=info)
        if _has_base(trainer.recipe, files):
            save_delta(model, files.out / DELTA, base=base, info=info)


def _has_base(recipe: SamRecipe, files: TrainFiles) -> bool:
    """Return True if the run started from a weights file that a delta can refer to."""
    if files.start is None:
        return files.sam is not None
    started = SemanticSamConfig.from_json(read_header(files.start)["config"])
    return started.sam == recipe.network.sam


def _log(out: Path, *, step: int, seconds_a_step: float, figures: dict[str, float]) -> None:
    row = {"step": step, "seconds_a_step": round(seconds_a_step, 3)}
    row |= {name: round(value, 5) for name, value in figures.items()}
    with (out / METRICS).open("a") as file:
        file.write(json.dumps(row) + "\n")


def train_on_all_ranks(recipe: SamRecipe, files: TrainFiles, *, progress: Progress) -> None:
    """Train in this process, or as one of the processes that torchrun started.

    Only the first process reports progress.
    """
    ranks = join_ranks()
    if ranks.count > 1 and not torch.cuda.is_available():
        torch.set_num_threads(max(1, torch.get_num_threads() // ranks.count))
    train(recipe, files, ranks=ranks, progress=progress if ranks.is_first else NO_PROGRESS)
