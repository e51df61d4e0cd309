"""Trainer of Semantic-SAM: SAM's mask loss, and a semantic loss on the labels' vectors.

The loss is the mean over all samples of a step, so the share of masks among the samples is their
weight. A sample is one prompted mask or one labelled box.

Legend: B pictures, N units of one kind, M masks a prompt, D width of the text space.
"""

import shutil
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.ops import box_iou, masks_to_boxes

from training.data.batches import BoxUnits, MaskUnits, TrainBatch
from training.data_parallel import ONE_PROCESS, Ranks
from training.sam.kept_embeddings import KeptEmbeddings
from training.sam.label_vectors import LabelVectors
from training.sam.mask_losses import mask_loss
from training.sam.optimizer import build_optimizer, clip_gradients, set_rates
from training.sam.prompting import PromptSimulation, jitter_boxes
from training.sam.recipe import SamRecipe
from training.sam.semantic_losses import semantic_loss
from training.trainer import Trainer
from unspoken.model.sam.conv_stem import split_embedding
from unspoken.model.sam.semantic_sam import Prompts, SemanticSam

# Lowest IoU of a point's best mask with the labelled box; below it, the point missed the object.
MIN_POINT_IOU = 0.5


class _BoxOutput(NamedTuple):
    """The network's output for labelled boxes that were prompted."""

    mask_embedding: Tensor  # (N, D)
    similarity: Tensor  # (N,)
    samples: Tensor  # (N,) indices into the batch's boxes


class SamTrainer(Trainer):
    """Model, optimizer and moving average; `step` takes the batches of one optimizer step."""

    def __init__(
        self,
        recipe: SamRecipe,
        model: SemanticSam,
        *,
        label_vectors: LabelVectors | None,
        ranks: Ranks = ONE_PROCESS,
        embeddings: KeptEmbeddings | None = None,
    ) -> None:
        self.recipe = recipe
        self.model = model.train()
        self.label_vectors = label_vectors
        self.ranks = ranks
        self._embeddings = embeddings
        model.choose_trained()
        learned = {n: p for n, p in model.named_parameters() if p.requires_grad}
        super().__init__(model, learned, build_optimizer(model, recipe), ema_decay=recipe.ema_decay)
        if recipe.compile_decoder and shutil.which("g++"):
            model.mask_decoder.compile()

    def step(self, batches: list[TrainBatch]) -> dict[str, float]:
        """Run one update from `accumulate` batches; return figures by name."""
        set_rates(self.optimizer, self.num_steps, self.recipe)
        self.optimizer.zero_grad()
        figures: dict[str, float] = {}
        for batch in batches:
            with _attention(self.model.device.type):
                loss, terms = self.loss(batch, number=self.num_steps)
            torch.autograd.backward(loss / len(batches))
            for name, value in (terms | {"loss": loss}).items():
                figures[name] = figures.get(name, 0.0) + float(value.detach()) / len(batches)
        self.ranks.average_gradients(self.learned.values())
        figures |= clip_gradients(self.model, self.recipe)
        self.finish_step()
        return figures

    def loss(self, batch: TrainBatch, *, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of one batch, and its terms by name (means over their own samples)."""
        num_masks, num_boxes = self.recipe.batch.masks_per_step, self.recipe.batch.boxes_per_step
        batch = batch.to(self.model.device)
        with self._autocast():
            image_embeddings = self._embed(batch)
        terms: dict[str, Tensor] = {}
        total = image_embeddings.new_zeros(())
        if num_masks:
            of_masks = self._mask_terms(image_embeddings, batch.masks, number=number)
            total = total + num_masks * torch.stack(list(of_masks.values())).sum()
            terms |= of_masks
        if num_boxes:
            of_boxes = self._box_terms(image_embeddings, batch.boxes, number=number)
            total = total + num_boxes * torch.stack(list(of_boxes.values())).sum()
            terms |= of_boxes
        return total / (num_masks + num_boxes), terms

    @torch.no_grad()
    def standardise_pool(self, batch: TrainBatch) -> None:
        """Set the normalisation of mask pooling from these pictures, before the first step."""
        pool = self.model.mask_decoder.semantic_pool
        if pool is not None:
            embeddings = self.model.embed_images(batch.images)
            if self.recipe.network.sam.stem != "none":
                embeddings, _ = split_embedding(embeddings)
            pool.standardise(embeddings)

    def _embed(self, batch: TrainBatch) -> Tensor:
        if self._embeddings is not None:
            return self._embeddings.embed(batch.images, batch.keys)
        if not any(name.startswith("image_encoder.") for name in self.learned):
            with torch.no_grad():
                return self.model.embed_images(batch.images)
        return self.model.embed_images(batch.images)

    def _mask_terms(
        self, image_embeddings: Tensor, units: MaskUnits, *, number: int
    ) -> dict[str, Tensor]:
        """Return the mask terms, averaged over the turns of the prompt simulation."""
        recipe = self.recipe
        is_whole = number % recipe.simulate_every == recipe.simulate_every - 1
        simulation = PromptSimulation(
            units,
            sam=self.model.config.sam,
            simulation=recipe.simulation if is_whole else "first",
            starts_with_box=number % 2 == 0,
            box_noise=recipe.box_noise,
            generator=_generator(recipe.seed, number, self.ranks.rank),
        )
        turn_terms: list[dict[str, Tensor]] = []
        for turn in simulation.turns():
            with self._autocast():
                output = self.model.decode(
                    image_embeddings, turn.prompts, multimask_output=turn.multimask_output
                )
            output = output._replace(
                mask_logits=output.mask_logits.float(),
                iou_predictions=output.iou_predictions.float(),
            )
            simulation.update(output)
            loss = mask_loss(output, units.masks, units.known, config=recipe.mask_loss)
            turn_terms.append(loss.terms)
        return {
            name: torch.stack([terms[name] for terms in turn_terms]).mean()
            for name in turn_terms[0]
        }

    def _box_terms(
        self, image_embeddings: Tensor, units: BoxUnits, *, number: int
    ) -> dict[str, Tensor]:
        """Return the semantic terms over the boxes of all ranks."""
        assert self.label_vectors is not None, "boxes come with their labels' vectors"
        by_point = units.draws[:, 0] < self.recipe.point_share
        outputs = [
            self._prompt_by_boxes(image_embeddings, units, (~by_point).nonzero()[:, 0]),
            self._prompt_by_points(image_embeddings, units, by_point.nonzero()[:, 0]),
        ]
        samples = torch.cat([each.samples for each in outputs]).tolist()
        labels = self._of_all_ranks([units.labels[i] for i in samples])
        negatives = None
        if self.recipe.hard_negatives:
            negatives = self._of_all_ranks([units.negatives[i] for i in samples])
        extra = self.label_vectors.draw(
            self.recipe.extra_negatives, seed=(self.recipe.seed, number)
        )
        return semantic_loss(
            self.ranks.gather(torch.cat([each.mask_embedding for each in outputs])),
            self.ranks.gather(torch.cat([each.similarity for each in outputs])),
            self.label_vectors.collect(labels, extra=extra, negatives=negatives).to(
                self.model.device
            ),
            scale=self.model.mask_decoder.scale(),
            config=self.recipe.semantic_loss,
        )

    def _prompt_by_boxes(
        self, image_embeddings: Tensor, units: BoxUnits, chosen: Tensor
    ) -> _BoxOutput:
        """Prompt by boxes for a single mask, and train its token on the label.

        A box is not ambiguous (SAM, arXiv:2304.02643, section 3, 'Resolving ambiguity').
        """
        boxes = jitter_boxes(
            units.boxes[chosen],
            units.noise[chosen],
            share=self.recipe.box_noise,
            side=self.model.config.sam.image_size,
        )
        with self._autocast():
            output = self.model.decode(
                image_embeddings,
                Prompts(units.image_index[chosen], boxes=boxes),
                multimask_output=False,
            )
        return _BoxOutput(output.mask_embedding[:, 0], output.similarity[:, 0].float(), chosen)

    def _prompt_by_points(
        self, image_embeddings: Tensor, units: BoxUnits, chosen: Tensor
    ) -> _BoxOutput:
        """Prompt by points for three masks; train the one whose extent best matches the box.

        A random point of the box may lie on another object, so the point is drawn from the
        network's own mask of the box. A sample is left out if no mask matches the box's extent.
        """
        index, boxes = units.image_index[chosen], units.boxes[chosen]
        sam = self.model.config.sam
        with torch.no_grad(), self._autocast():
            own = self.model.decode(
                image_embeddings, Prompts(index, boxes=boxes), multimask_output=False
            )
        points, has_mask = pick_points(own.mask_logits[:, 0], units.draws[chosen, 1])
        cell = sam.image_size / sam.mask_side
        with self._autocast():
            output = self.model.decode(
                image_embeddings,
                Prompts(
                    index,
                    points=((points + 0.5) * cell - 0.5)[:, None],
                    point_labels=torch.ones(len(points), 1, device=points.device),
                ),
                multimask_output=True,
            )
        overlap = extent_iou(output.mask_logits.detach() > 0, boxes / cell)  # (N, M)
        best = overlap.argmax(1) if len(overlap) else overlap.new_zeros(0, dtype=torch.long)
        rows = torch.arange(len(best), device=best.device)
        usable = (has_mask & (overlap[rows, best] >= MIN_POINT_IOU)).nonzero()[:, 0]
        return _BoxOutput(
            output.mask_embedding[usable, best[usable]],
            output.similarity[usable, best[usable]].float(),
            chosen[usable],
        )

    def _of_all_ranks(self, names: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
        return [each for part in self.ranks.gather_objects(names) for each in part]

    def _autocast(self) -> AbstractContextManager[Any]:
        """Return an autocast context: bf16 if the device has bf16 instructions."""
        device = self.model.device.type
        if self.recipe.bf16 == "never" or not _has_bf16(device):
            return nullcontext()
        return torch.autocast(device, dtype=torch.bfloat16)


def pick_points(mask_logits: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Pick a cell of each mask by a draw in [0, 1), which is a position in reading order.

    (N, s, s), (N,) -> x, y (N, 2), and (N,) bool: False for an empty mask.
    """
    on = (mask_logits > 0).flatten(1)
    counts = on.sum(1)
    wanted = (draws * counts).long().clamp(max=on.shape[1] - 1)  # (N,) mask cells before it
    place = (on.cumsum(1) > wanted[:, None]).long().argmax(1)
    side = mask_logits.shape[-1]
    return torch.stack([place % side, place // side], dim=1).float(), counts > 0


def extent_iou(masks: Tensor, boxes: Tensor) -> Tensor:
    """Return the IoU of each mask's bounding box with its unit's box, in cells.

    (N, M, s, s), (N, 4) -> (N, M).
    """
    overlap = torch.zeros(masks.shape[:2], device=masks.device)
    for row, box in enumerate(boxes):
        filled = masks[row].flatten(1).any(1)
        if filled.any():
            tight = masks_to_boxes(masks[row][filled])
            tight[:, 2:] += 1  # from the last cell's index to its outer edge
            overlap[row, filled] = box_iou(tight, box[None])[:, 0]
    return overlap


def _generator(*numbers: int) -> torch.Generator:
    """Return a random generator seeded by these numbers."""
    seed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed >> 1))


def _attention(device: str) -> AbstractContextManager[Any]:
    """Use plain attention on CPUs.

    There the fused kernel's backward pass is slow for few queries and many keys.
    """
    return sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext()


def _has_bf16(device: str) -> bool:
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.backends.cpu.get_cpu_capability().startswith("AVX512")) and _cpu_bf16()


def _cpu_bf16() -> bool:
    """Return True if the CPU has bf16 instructions; emulated bf16 is slower than float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and bool(
        torch.cpu._is_avx512_bf16_supported()
    )
