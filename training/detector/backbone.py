"""First training phase: the detector's backbone learns to classify points of a scene.

A detector trained from random weights learns boxes but no labels. Therefore the backbone and the
detector's input projections are first trained alone. At each stride, the mean feature of a few
points of an object is trained to match the text vector of that whole or part. The text side is
fixed: MiniLM's word vectors, projected onto the first principal directions of the vocabulary. This
projection becomes the detector's text projection, so images and words are already aligned when the
detector starts.

Legend: B pictures, G objects with K points each, D width of the detector, C of the text encoder.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MMGroundingDinoForObjectDetection, PreTrainedTokenizerBase

from training.data_parallel import Ranks
from training.detector.data import (
    UNKNOWN,
    DataConfig,
    PointBatch,
    PointDataset,
    Vocabulary,
)
from training.trainer import cosine, save_checkpoint, stream
from unspoken.model.detector.grounding_dino import PhraseCache, SmallDetectorConfig
from unspoken.progress import Progress

# Loss weights of wholes and of parts at strides 8, 16, 32. Parts count more at fine strides,
# because they are small.
WHOLE_WEIGHTS = (0.2, 1.0, 1.0)
PART_WEIGHTS = (0.5, 0.5, 0.1)
NORM_MOMENTUM = 0.02  # as slow as the moving average of the weights
WHITENING = 0.25  # power of the spectrum that is removed: 0 keeps MiniLM's angles, 0.5 whitens


def crops_config() -> DataConfig:
    """Return a config of small pictures with one whole each: the cheapest way to learn names."""
    return DataConfig(seed=500_000_000, batch_size=32, num_wholes=(1, 1), object_side=(0.45, 0.9))


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Settings of a recipe's first phase."""

    data: DataConfig = field(default_factory=crops_config)
    sizes_px: tuple[int, ...] = (64, 64, 80)
    lr: float = 1e-3
    weight_decay: float = 0.02
    warmup_steps: int = 100
    num_workers: int = 1  # per process
    checkpoint_every_s: float = 120.0


class TextSide(nn.Module):
    """The detector's text projection, set from the vocabulary's principal directions."""

    weight: Tensor  # (D, C)
    bias: Tensor  # (D,)

    def __init__(self, vectors: Tensor, *, width: int) -> None:
        super().__init__()
        mean = vectors.mean(0)
        _, spectrum, directions = torch.linalg.svd(vectors - mean, full_matrices=False)
        kept = min(width, len(spectrum))
        rows = directions[:kept] * (spectrum[0] / spectrum[:kept, None]) ** (2 * WHITENING)
        weight = torch.zeros(width, vectors.shape[1])
        weight[:kept] = rows
        # Layer norms of the detector keep vectors near length sqrt(D): start there.
        weight *= math.sqrt(width) / ((vectors - mean) @ weight.t()).norm(dim=-1).mean()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", -weight @ mean)

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., C) -> (..., D)."""
        return F.linear(vectors, self.weight, self.bias)


class PointClassifier(nn.Module):
    """Backbone and input projections. A word's score at a point is the scaled cosine of the two."""

    whole_words: Tensor  # (W, D) unit length
    part_words: Tensor  # (P, D) unit length

    def __init__(
        self, config: SmallDetectorConfig, *, text_side: TextSide, wholes: Tensor, parts: Tensor
    ) -> None:
        super().__init__()
        self.backbone = timm.create_model(
            config.backbone, features_only=True, out_indices=(2, 3, 4), pretrained=False
        )
        self.projections = nn.ModuleList(
            nn.Conv2d(channels, config.d_model, 1)
            for channels in self.backbone.feature_info.channels()
        )
        self.text_side = text_side
        self.register_buffer("whole_words", F.normalize(text_side.forward(wholes), dim=-1))
        self.register_buffer("part_words", F.normalize(text_side.forward(parts), dim=-1))
        self.log_scale = nn.Parameter(torch.tensor(math.log(16.0)))

    def forward(self, batch: PointBatch) -> tuple[Tensor, Tensor]:
        """Return the weighted loss and the share of wholes classified correctly at stride 32."""
        losses = []
        right = torch.zeros(())
        is_whole = batch.whole != UNKNOWN
        wholes = batch.whole[is_whole]
        pixels = batch.pixels.contiguous(memory_format=torch.channels_last)
        for level, features in enumerate(self.backbone(pixels)):
            projected = self.projections[level](features)  # (B, D, h, w)
            vectors = F.normalize(_sample(projected, batch), dim=-1) * self.log_scale.exp()
            whole_logits = vectors[is_whole] @ self.whole_words.t()
            losses.append(WHOLE_WEIGHTS[level] * F.cross_entropy(whole_logits, wholes))
            # Overwritten at each level, so the last level's value is returned.
            right = (whole_logits.argmax(1) == wholes).float().mean()
            if not is_whole.all():
                part_logits = vectors[~is_whole] @ self.part_words.t()
                parts_loss = F.cross_entropy(part_logits, batch.part[~is_whole])
                losses.append(PART_WEIGHTS[level] * parts_loss)
        return torch.stack(losses).sum(), right


def _sample(features: Tensor, batch: PointBatch) -> Tensor:
    """Average the features at each object's points: (B, D, h, w) -> (G, D)."""
    height, width = features.shape[-2:]
    flat = features.flatten(2).transpose(1, 2).reshape(-1, features.shape[1])  # (B * h * w, D)
    x = (batch.points[..., 0] * width).long()  # (G, K)
    y = (batch.points[..., 1] * height).long()
    return flat[(batch.picture[:, None] * height + y) * width + x].mean(1)


def phrase_vectors(
    phrases: Sequence[str], *, cache: PhraseCache, tokenizer: PreTrainedTokenizerBase
) -> Tensor:
    """Return the mean token state of each phrase, encoded as in the detector: (P, C)."""
    stop = tokenizer.convert_tokens_to_ids(".")
    rows = [(*tokenizer.encode(phrase, add_special_tokens=False), stop) for phrase in phrases]
    return torch.stack([cache.encode_block(row)[:-1].mean(0) for row in rows])


def build_classifier(
    config: SmallDetectorConfig,
    vocabulary: Vocabulary,
    *,
    cache: PhraseCache,
    tokenizer: PreTrainedTokenizerBase,
) -> PointClassifier:
    """Build a classifier with random weights over the vocabulary's wholes and parts."""

    def embed(phrases: Sequence[str]) -> Tensor:
        return phrase_vectors(phrases, cache=cache, tokenizer=tokenizer)

    synonyms = [each for words in vocabulary.synonyms.values() for each in words]
    everything = embed([*vocabulary.wholes, *vocabulary.parts, *synonyms])
    return PointClassifier(
        config,
        text_side=TextSide(everything, width=config.d_model),
        wholes=embed(vocabulary.wholes),
        parts=embed(vocabulary.parts),
    )


def train_backbone(
    classifier: PointClassifier,
    config: BackboneConfig,
    *,
    detector: SmallDetectorConfig,
    path: Path,
    minutes: float,
    ranks: Ranks,
    progress: Progress,
) -> None:
    """Train for `minutes` and keep a checkpoint in `path`, from which a killed run resumes."""
    dataset = PointDataset(config.data, sizes_px=config.sizes_px, detector=detector)
    classifier = classifier.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(
        classifier.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    step, spent_s, first_step = 0, 0.0, 0
    if path.exists():
        checkpoint = torch.load(path, weights_only=True)
        classifier.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        step = first_step = checkpoint["step"]
        spent_s = checkpoint["spent_s"]
    batches = stream(
        dataset,
        first=step * ranks.count + ranks.rank,
        every=ranks.count,
        num_workers=config.num_workers,
    )
    started = saved = time.monotonic()
    before_s, accuracy = spent_s, 0.0
    budget_s = max(minutes * 60, 1e-3)
    share = spent_s / budget_s
    with progress.stage(
        "training the backbone", total=round(budget_s), unit="s", done=round(spent_s)
    ) as stage:
        while share < 1:
            loss, right = classifier(next(batches))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            ranks.average_gradients(classifier.parameters())
            share = ranks.of_first(spent_s / budget_s)
            warmup = min(1.0, (step - first_step + 1) / config.warmup_steps)
            for group in optimizer.param_groups:
                group["lr"] = config.lr * warmup * max(0.02, cosine(share))
            nn.utils.clip_grad_norm_(classifier.parameters(), 5.0)
            optimizer.step()
            step += 1
            now_s = before_s + time.monotonic() - started
            accuracy += (right.item() - accuracy) * max(0.03, 1 / step)
            note = f"step {step}, loss {loss.item():.3f}, accuracy of wholes {accuracy:.3f}"
            stage.advance(now_s - spent_s, note=note)
            spent_s = now_s
            if not ranks.is_first:
                continue
            is_over = share >= 1
            if is_over or time.monotonic() - saved > config.checkpoint_every_s:
                saved = time.monotonic()
                save_checkpoint(
                    {
                        "model": classifier.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "step": step,
                        "spent_s": spent_s,
                    },
                    path,
                )


def start_detector_from(
    model: MMGroundingDinoForObjectDetection, classifier: PointClassifier
) -> None:
    """Copy backbone, input projections and text projection into a detector."""
    trained = classifier.backbone.state_dict()
    target = model.model.backbone.conv_encoder.model
    state = target.state_dict()
    known = {name: trained[name.replace("_backbone.", "")] for name in state}
    target.load_state_dict(known)
    for level, projection in enumerate(classifier.projections):
        model.model.input_proj_vision[level][0].load_state_dict(projection.state_dict())
    model.model.text_projection.load_state_dict(classifier.text_side.state_dict())


def thaw_batch_norm(model: MMGroundingDinoForObjectDetection) -> None:
    """Replace the library's frozen batch norms in the backbone by trainable ones.

    The new layers have the same tensors under the same names, and give the same output in eval
    mode. The backbone needs them, because it is trained from random weights.
    """
    backbone = model.model.backbone.conv_encoder.model
    for parent in list(backbone.modules()):
        for name, frozen in list(parent.named_children()):
            if type(frozen).__name__.endswith("FrozenBatchNorm2d"):
                norm = nn.BatchNorm2d(len(frozen.weight), momentum=NORM_MOMENTUM)
                norm.load_state_dict(frozen.state_dict(), strict=False)
                setattr(parent, name, norm)
