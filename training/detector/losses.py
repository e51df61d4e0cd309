"""Losses of the small detector: encoder and decoder, whole phrases, and presence of a phrase.

The library's own loss is not used. It offsets label maps by the wrong count, so a batch of several
pictures learns wrong labels. It also never trains the first stage, because it detaches its boxes.
Here every encoder location is trained on boxes of its own size (`first_stage_loss`), and every
decoder layer on its matched boxes (`decoder_loss`). Several queries may find the same box. The
service removes duplicates per label, so forbidding such duplicates here would only cost training
time.

Legend: B pictures, Q queries, T tokens of a prompt, P phrases, N objects, A locations (all levels).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, box_iou, generalized_box_iou
from transformers import MMGroundingDinoForObjectDetection

from training.detector.backbone import PART_WEIGHTS, WHOLE_WEIGHTS
from training.detector.data import DetectionBatch


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms, and rules that assign boxes to locations and queries."""

    label_weight: float = 2.0
    l1_weight: float = 5.0
    giou_weight: float = 2.0
    alignment_weight: float = 1.0  # classify a location among the picture's phrases
    class_weight: float = 1.0  # the first phase's classification, on whole scenes
    presence_weight: float = 1.0  # classify a phrase as present or absent
    focal_alpha: float = 0.35
    focal_gamma: float = 2.0
    duplicate_iou: float = 0.5  # a query with this IoU also counts as right without being matched
    # The target of a right label rises with the box's IoU, from 0 at the first value to 1 at the
    # second, so that a score predicts box quality. Matched queries get at least `min_quality`.
    quality_iou: tuple[float, float] = (0.2, 0.7)
    min_quality: float = 0.1
    cells_per_side: float = (
        2.2  # a box is assigned to the level where it spans about this many cells
    )
    core: float = 0.2  # a location this close to the centre, in box sides, is a positive
    halo: float = 0.35  # locations up to this distance are ignored


class StageOutput(NamedTuple):
    """Output of one stage: token logits and boxes of its queries or locations."""

    logits: Tensor  # (B, Q, T), -inf at padding
    boxes: Tensor  # (B, Q, 4) cx, cy, w, h in [0, 1]


class DetectorOutput(NamedTuple):
    """Output of the first stage (one query per location) and of every decoder layer."""

    encoder: StageOutput
    layers: list[StageOutput]
    maps: list[Tensor]  # the backbone's projected features, (B, D, h, w) per stride
    cells: Tensor  # (A, 3): x, y and width of each location's cell, in [0, 1]


class Words(NamedTuple):
    """The vocabulary's vectors under the current text projection."""

    vectors: Tensor  # (V, D) unit length: wholes, then parts
    num_wholes: int
    scale: float = 20.0


class PhraseLabels(NamedTuple):
    """Maps from phrases to tokens in a batch."""

    maps: Tensor  # (B, P, T) float: 1 for the phrase's tokens
    weights: Tensor  # (B, P, T): the same, divided by the phrase's length
    judged: Tensor  # (B, P) bool


def run_detector(model: MMGroundingDinoForObjectDetection, batch: DetectionBatch) -> DetectorOutput:
    """Run both stages and return every decoder layer; the library returns only the last one."""
    prompt = batch.prompt
    maps: list[Tensor] = []
    hooks = [
        projection[0].register_forward_hook(lambda _, __, features: maps.append(features))
        for projection in model.model.input_proj_vision[:3]
    ]
    output = model.model(
        pixel_values=batch.pixels,
        input_ids=prompt.input_ids,
        attention_mask=prompt.attention_mask,
    )
    for hook in hooks:
        hook.remove()
    num_tokens = prompt.input_ids.shape[1]
    layers = []
    for index in range(output.intermediate_hidden_states.shape[1]):
        hidden = output.intermediate_hidden_states[:, index]
        reference = (
            output.init_reference_points
            if index == 0
            else output.intermediate_reference_points[:, index - 1]
        )
        logits = model.class_embed[index](
            vision_hidden_state=hidden,
            text_hidden_state=output.encoder_last_hidden_state_text,
            text_token_mask=prompt.attention_mask.bool(),
        )
        offsets = model.bbox_embed[index](hidden)
        boxes = (offsets + torch.special.logit(reference, eps=1e-5)).sigmoid()
        layers.append(StageOutput(logits[..., :num_tokens], boxes))
    encoder = StageOutput(
        output.enc_outputs_class[..., :num_tokens], output.enc_outputs_coord_logits.sigmoid()
    )
    cells = location_cells(batch.pixels.shape[-1], num_levels=model.config.num_feature_levels)
    return DetectorOutput(encoder=encoder, layers=layers, maps=maps, cells=cells)


def location_cells(size_px: int, *, num_levels: int) -> Tensor:
    """Return centre and width of every cell of strides 8, 16, 32, ...: (A, 3) in [0, 1]."""
    rows = []
    for level in range(num_levels):
        num = -(-size_px // 2 ** (3 + level))
        axis = (torch.arange(num) + 0.5) / num
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        width = torch.full((num * num,), 2 ** (3 + level) / size_px)
        rows.append(torch.stack([x.flatten(), y.flatten(), width], dim=1))
    return torch.cat(rows)


def detection_loss(
    output: DetectorOutput, batch: DetectionBatch, *, words: Words, config: LossConfig
) -> dict[str, Tensor]:
    """Return all weighted terms by name; training minimises their sum."""
    maps = batch.prompt.phrase_maps.float()
    labels = PhraseLabels(
        maps=maps,
        weights=maps / maps.sum(-1, keepdim=True).clamp(min=1),
        judged=batch.judged,
    )
    terms = first_stage_loss(output, batch, labels=labels, config=config)
    for index, layer in enumerate(output.layers):
        for name, value in decoder_loss(layer, batch, labels=labels, config=config).items():
            terms[f"decoder_{index}_{name}"] = value
    terms["class"] = config.class_weight * class_loss(output.maps, batch, words=words)
    last = output.layers[-1]
    terms["presence"] = config.presence_weight * presence_loss(last, batch, labels=labels)
    return terms


def first_stage_loss(
    output: DetectorOutput, batch: DetectionBatch, *, labels: PhraseLabels, config: LossConfig
) -> dict[str, Tensor]:
    """Return the losses of the encoder's locations.

    A location in the core of a box that fits its level is trained on the box and its label.
    """
    stage, cells = output.encoder, output.cells
    num_phrases = labels.maps.shape[1]
    targets = torch.zeros(*stage.logits.shape[:2], num_phrases)  # (B, A, P)
    counted = labels.judged[:, None].expand_as(targets).clone()
    picture, place, wanted, phrase = [], [], [], []
    for b, (boxes, names) in enumerate(zip(batch.boxes, batch.labels, strict=True)):
        if not len(boxes):
            continue
        distance = ((cells[:, None, :2] - boxes[:, :2]) / boxes[:, 2:]).abs().amax(-1)  # (A, N)
        side = boxes[:, 2:].prod(-1).sqrt()
        octave = torch.log2(side[None] / (config.cells_per_side * cells[:, 2:]))  # (A, N)
        fits = octave.abs() < 1
        # A box smaller (larger) than every level's range belongs to the finest (coarsest) level.
        fits |= (octave < 0) & (cells[:, 2:] == cells[:, 2].min())
        fits |= (octave > 0) & (cells[:, 2:] == cells[:, 2].max())
        nearest = distance.masked_fill(~fits, 9.0).argmin(0)  # (N,)
        core = fits & (distance < config.core)
        core[nearest, torch.arange(len(boxes))] = True
        area = boxes[:, 2:].prod(-1).expand(len(cells), -1).masked_fill(~core, 9.0)
        smallest, owner = area.min(1)
        hit = smallest < 9
        near = (distance < config.halo) | core  # (A, N): ignored
        ignored = torch.zeros(len(cells), num_phrases, dtype=torch.bool)
        for n, name in enumerate(names.tolist()):
            ignored[:, name] |= near[:, n]
        counted[b] &= ~ignored
        places = hit.nonzero()[:, 0]
        targets[b, places, names[owner[hit]]] = 1
        counted[b, places, names[owner[hit]]] = True
        picture.append(torch.full_like(places, b))
        place.append(places)
        wanted.append(boxes[owner[hit]])
        phrase.append(names[owner[hit]])
    picture_index, place_index = torch.cat(picture), torch.cat(place)
    num_hits = len(place_index)
    terms = _box_terms(
        stage.boxes[picture_index, place_index], torch.cat(wanted), config=config, count=num_hits
    )
    terms["label"] = config.label_weight * _label_loss(
        stage.logits, targets, counted, labels=labels, config=config, count=num_hits
    )
    scores = stage.logits[picture_index, place_index].masked_fill(  # (hits, T)
        batch.prompt.attention_mask[picture_index] == 0, 0.0
    )
    by_phrase = torch.einsum("kt,kpt->kp", scores, labels.weights[picture_index])
    by_phrase = by_phrase.masked_fill(~labels.maps[picture_index].any(-1), -1e4)
    terms["alignment"] = config.alignment_weight * F.cross_entropy(by_phrase, torch.cat(phrase))
    return {f"encoder_{name}": value for name, value in terms.items()}


def class_loss(maps: Sequence[Tensor], batch: DetectionBatch, *, words: Words) -> Tensor:
    """Classify the middle of each box among all nouns (or parts), at each stride.

    A prompt has only about twenty phrases; this loss distinguishes all words of the vocabulary.
    """
    boxes = torch.cat(batch.boxes)  # (G, 4)
    classes = torch.cat(batch.classes)  # (G,)
    counts = torch.tensor([len(each) for each in batch.boxes])
    picture = torch.repeat_interleave(torch.arange(len(counts)), counts)
    steps = torch.tensor([-0.22, 0.0, 0.22])
    grid = torch.cartesian_prod(steps, steps)  # (9, 2)
    points = boxes[:, None, :2] + grid[None] * boxes[:, None, 2:]  # (G, 9, 2)
    is_part = classes >= words.num_wholes
    losses = []
    for level, features in enumerate(maps):
        height, width = features.shape[-2:]
        flat = features.flatten(2).transpose(1, 2).reshape(-1, features.shape[1])
        x = (points[..., 0] * width).long().clamp(0, width - 1)
        y = (points[..., 1] * height).long().clamp(0, height - 1)
        vectors = flat[(picture[:, None] * height + y) * width + x].mean(1)  # (G, D)
        logits = words.scale * F.normalize(vectors, dim=-1) @ words.vectors.t()
        of_wholes, of_parts = logits[:, : words.num_wholes], logits[:, words.num_wholes :]
        losses.append(
            WHOLE_WEIGHTS[level] * F.cross_entropy(of_wholes[~is_part], classes[~is_part])
        )
        if is_part.any():
            wanted = classes[is_part] - words.num_wholes
            losses.append(PART_WEIGHTS[level] * F.cross_entropy(of_parts[is_part], wanted))
    return torch.stack(losses).sum()


def decoder_loss(
    stage: StageOutput, batch: DetectionBatch, *, labels: PhraseLabels, config: LossConfig
) -> dict[str, Tensor]:
    """Return the losses of one decoder layer, with Hungarian matching.

    Unmatched queries whose IoU with a box is at least `duplicate_iou` count as right, too. A
    label's target is the quality of the query's box (quality focal loss, arXiv:2006.04388), so that
    scores rank detections by IoU.
    """
    targets = torch.zeros(*stage.logits.shape[:2], labels.maps.shape[1])  # (B, Q, P)
    counted = labels.judged[:, None].expand_as(targets).clone()
    scores = _mean_sigmoid(stage.logits.detach(), labels)
    picture, query, wanted = [], [], []
    for b, (boxes, names) in enumerate(zip(batch.boxes, batch.labels, strict=True)):
        if not len(boxes):
            continue
        found = stage.boxes[b].detach()
        corners, truth = _corners(found), _corners(boxes)
        overlap = box_iou(corners, truth)  # (Q, N)
        cost = (
            2.0 * _focal_cost(scores[b][:, names])
            + config.l1_weight * torch.cdist(found, boxes, p=1)
            - config.giou_weight * generalized_box_iou(corners, truth)
        )
        owner = torch.where(overlap.amax(1) >= config.duplicate_iou, overlap.argmax(1), -1)
        matched, chosen = linear_sum_assignment(cost.numpy())
        owner[torch.as_tensor(matched)] = torch.as_tensor(chosen)
        queries = (owner >= 0).nonzero()[:, 0]
        quality = box_quality(overlap, config=config)
        close = overlap >= config.duplicate_iou  # (Q, N)
        close[queries, owner[queries]] = True
        # A second label with the same box (the shell of an egg) is right too.
        for n, name in enumerate(names.tolist()):
            column = targets[b, :, name]
            targets[b, :, name] = torch.where(close[:, n], column.maximum(quality[:, n]), column)
        picture.append(torch.full_like(queries, b))
        query.append(queries)
        wanted.append(boxes[owner[queries]])
    counted |= targets > 0
    picture_index, query_index = torch.cat(picture), torch.cat(query)
    count = len(query_index)
    terms = _box_terms(
        stage.boxes[picture_index, query_index], torch.cat(wanted), config=config, count=count
    )
    terms["label"] = config.label_weight * _label_loss(
        stage.logits, targets, counted, labels=labels, config=config, count=count
    )
    return terms


def box_quality(overlap: Tensor, *, config: LossConfig) -> Tensor:
    """Map IoU to the target of a right label, in [min_quality, 1]."""
    low, high = config.quality_iou
    return ((overlap - low) / (high - low)).clamp(config.min_quality, 1.0)


def presence_loss(stage: StageOutput, batch: DetectionBatch, *, labels: PhraseLabels) -> Tensor:
    """Return the mean cross entropy of each phrase's presence, by the logit of its best query.

    The service's threshold decides presence by the best score, too.
    """
    scores = _mean_logits(stage.logits, batch, labels)  # (B, Q, P)
    best = scores.amax(1)
    present = torch.zeros_like(best)
    for b, names in enumerate(batch.labels):
        present[b, names] = 1
    losses = F.binary_cross_entropy_with_logits(best, present, reduction="none")
    counted = labels.judged | (present > 0)
    return losses[counted].mean()


def _label_loss(
    logits: Tensor,
    targets: Tensor,
    counted: Tensor,
    *,
    labels: PhraseLabels,
    config: LossConfig,
    count: int,
) -> Tensor:
    """Return the focal loss over tokens; each phrase has weight one, independent of its length."""
    wanted = torch.bmm(targets, labels.maps)  # (B, Q, T)
    weights = torch.bmm(counted.float(), labels.weights)  # (B, Q, T)
    logits = logits.masked_fill(torch.isinf(logits), 0.0)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    wrong = (logits.sigmoid() - wanted).abs()
    alpha = torch.where(wanted > 0, config.focal_alpha, 1 - config.focal_alpha)
    return (weights * alpha * wrong**config.focal_gamma * cross_entropy).sum() / max(count, 1)


def _box_terms(
    boxes: Tensor, wanted: Tensor, *, config: LossConfig, count: int
) -> dict[str, Tensor]:
    giou = generalized_box_iou_pairs(_corners(boxes), _corners(wanted))
    return {
        "l1": config.l1_weight * (boxes - wanted).abs().sum() / max(count, 1),
        "giou": config.giou_weight * (1 - giou).sum() / max(count, 1),
    }


def generalized_box_iou_pairs(first: Tensor, second: Tensor) -> Tensor:
    """Return the GIoU of pairs of corner boxes: (K, 4), (K, 4) -> (K,)."""
    inner = torch.minimum(first[:, 2:], second[:, 2:]) - torch.maximum(first[:, :2], second[:, :2])
    overlap = inner.clamp(min=0).prod(-1)
    union = _area(first) + _area(second) - overlap
    outer = torch.maximum(first[:, 2:], second[:, 2:]) - torch.minimum(first[:, :2], second[:, :2])
    hull = outer.prod(-1)
    return overlap / union.clamp(min=1e-7) - (hull - union) / hull.clamp(min=1e-7)


def _area(corners: Tensor) -> Tensor:
    return (corners[:, 2:] - corners[:, :2]).prod(-1)


def _corners(boxes: Tensor) -> Tensor:
    corners: Tensor = box_convert(boxes, "cxcywh", "xyxy")
    return corners


def _mean_sigmoid(logits: Tensor, labels: PhraseLabels) -> Tensor:
    """(B, Q, T) -> (B, Q, P)."""
    return torch.bmm(logits.sigmoid(), labels.weights.transpose(1, 2))


def _mean_logits(logits: Tensor, batch: DetectionBatch, labels: PhraseLabels) -> Tensor:
    """(B, Q, T) -> (B, Q, P)."""
    finite = logits.masked_fill(batch.prompt.attention_mask[:, None] == 0, 0.0)
    return torch.bmm(finite, labels.weights.transpose(1, 2))


def _focal_cost(scores: Tensor) -> Tensor:
    """Return the matching cost of assigning labels with these scores to queries: (Q, N)."""
    scores = scores.clamp(1e-6, 1 - 1e-6)
    right = 0.25 * (1 - scores) ** 2 * -scores.log()
    wrong = 0.75 * scores**2 * -(1 - scores).log()
    return right - wrong


def total(terms: dict[str, Tensor]) -> Tensor:
    """Return the sum of the terms."""
    return torch.stack(list(terms.values())).sum()


def phrase_accuracy(output: DetectorOutput, batch: DetectionBatch) -> float:
    """Return the share of objects whose best last-layer query ranks the right phrase first."""
    maps = batch.prompt.phrase_maps.float()
    labels = PhraseLabels(maps, maps / maps.sum(-1, keepdim=True).clamp(min=1), batch.judged)
    scores = _mean_sigmoid(output.layers[-1].logits.detach(), labels)
    right = count = 0
    for b, (boxes, names) in enumerate(zip(batch.boxes, batch.labels, strict=True)):
        if not len(boxes):
            continue
        overlap = box_iou(_corners(output.layers[-1].boxes[b].detach()), _corners(boxes))
        best = overlap.argmax(0)  # (N,)
        right += int((scores[b, best].argmax(-1) == names).sum())
        count += len(names)
    return right / max(count, 1)
