"""Evaluation of a network in one pass over the pictures.

Pictures with text queries are encoded twice, all others once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from training.evaluation.clicks import CLICKS, MaskScores, score_masks
from training.evaluation.naming import Group, Named
from training.evaluation.pictures import TruePicture
from training.evaluation.text_queries import TextAnswer, average_precision, bank_answers
from unspoken.model.mask_bank import MaskBankConfig, build_mask_bank
from unspoken.model.sam.checkpoint import LoadedSam
from unspoken.model.sam.mask_upscaling import MaskUpscaler
from unspoken.model.sam.semantic_sam import Prompts, SemanticSam
from unspoken.model.text_space import TextSpace, TextSpaceConfig
from unspoken.progress import NO_PROGRESS, Progress, counted

EncodeTexts = Callable[[Sequence[str]], np.ndarray]

Figures = dict[str, float | int | None]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Selects what is measured; clicks and text queries take most of the time."""

    clicks: bool = True
    text_queries: int = 0
    """Number of pictures for which text queries are answered from the mask bank."""
    bank: MaskBankConfig = field(default_factory=MaskBankConfig)
    text_space: TextSpaceConfig = field(default_factory=TextSpaceConfig)


@dataclass
class _Masks:
    """Mask scores of all pictures, each marked as whole or part."""

    rows: list[tuple[bool, MaskScores]] = field(default_factory=list)

    def figures(self) -> Figures:
        """Return box_miou over all objects, wholes and parts, and click figures over all."""
        figures: Figures = {
            "box_miou": self._mean(lambda each: each.box_iou),
            "box_boundary_miou": self._mean(lambda each: each.box_boundary_iou),
            "box_miou_wholes": self._mean(lambda each: each.box_iou, is_part=False),
            "box_miou_parts": self._mean(lambda each: each.box_iou, is_part=True),
        }
        if any(each.click_iou for _, each in self.rows):
            for number in CLICKS:
                figures[f"click{number}_miou"] = self._mean(partial(_of_click, number))
            figures["click1_oracle_miou"] = self._mean(lambda each: each.oracle_iou)
        return figures

    def _mean(
        self, of: Callable[[MaskScores], np.ndarray], *, is_part: bool | None = None
    ) -> float | None:
        values = [of(scores) for part, scores in self.rows if is_part is None or part == is_part]
        return round(float(np.concatenate(values).mean()), 4) if values else None


def _of_click(number: int, scores: MaskScores) -> np.ndarray:
    return scores.click_iou[number]


@torch.inference_mode()
def measure(
    loaded: LoadedSam,
    pictures: Iterable[TruePicture],
    *,
    encode_texts: EncodeTexts,
    vocabulary: Sequence[str],
    groups: Mapping[str, Group],
    config: EvaluationConfig,
    progress: Progress = NO_PROGRESS,
    total: int | None = None,
) -> Figures:
    """Measure naming by box and by click, masks and, if configured, text queries.

    vocabulary: the words that mask vectors are compared with; objects of other labels count for
    mask figures only. The network may be untrained; its figures are then the lower reference.
    total: number of pictures, for the progress; None if it is unknown.
    """
    model = loaded.model.eval()
    space = TextSpace.of(loaded, encode_texts, config.text_space)
    vectors = space.vectors(vocabulary)
    place = {label: number for number, label in enumerate(vocabulary)}
    masks, by_box, by_click = _Masks(), Named(), Named()
    asked: list[TruePicture] = []
    with progress.stage("measuring names and masks", total=total) as stage:
        for picture in counted(pictures, stage):
            if not picture.objects:
                continue
            upscaler = MaskUpscaler.of(picture.pixels, model.config.sam)
            embedding = model.embed_images([upscaler.frame.to_input(picture.pixels)])
            _measure_picture(
                model, embedding, upscaler, picture,
                masks=masks, by_box=by_box, by_click=by_click,
                vectors=vectors, place=place, config=config,
            )  # fmt: skip
            if len(asked) < config.text_queries:
                asked.append(picture)
    figures = masks.figures()
    figures |= {f"box_{name}": value for name, value in by_box.figures(groups).items()}
    figures |= {f"click_{name}": value for name, value in by_click.figures(groups).items()}
    if asked:

        def answers(picture: TruePicture) -> list[TextAnswer]:
            upscaler = MaskUpscaler.of(picture.pixels, model.config.sam)
            embedding = model.embed_images([upscaler.frame.to_input(picture.pixels)])
            bank = build_mask_bank(model, embedding, upscaler, config.bank)
            return bank_answers(bank, space, vocabulary=vocabulary)

        with progress.stage("measuring text queries", total=len(asked)) as stage:
            found = average_precision(counted(asked, stage), answers, vocabulary=vocabulary)
        figures |= {f"bank_{name}": value for name, value in found.items()}
    return figures


def _measure_picture(
    model: SemanticSam,
    embedding: torch.Tensor,
    upscaler: MaskUpscaler,
    picture: TruePicture,
    *,
    masks: _Masks,
    by_box: Named,
    by_click: Named,
    vectors: np.ndarray,
    place: Mapping[str, int],
    config: EvaluationConfig,
) -> None:
    index = torch.zeros(len(picture.objects), dtype=torch.long)
    boxes = upscaler.frame.boxes_to_input(np.array([each.box_xyxy for each in picture.objects]))
    output = model.decode(embedding, Prompts(index, boxes=boxes), multimask_output=False)
    known = [i for i, each in enumerate(picture.objects) if each.label in place]
    labels = [picture.objects[i].label for i in known]
    by_box.add(
        labels,
        output.mask_embedding[known, 0].numpy(),
        output.similarity[known, 0].numpy(),
        vocabulary=place,
        vectors=vectors,
    )
    scores = score_masks(
        model, embedding, upscaler, picture, box_output=output, clicks=config.clicks
    )
    for number, each in enumerate(picture.objects):
        masks.rows.append((each.is_part, _row(scores, number)))
    if config.clicks:
        _name_clicks(model, embedding, upscaler, picture, known, by_click, vectors, place)


def _name_clicks(
    model: SemanticSam,
    embedding: torch.Tensor,
    upscaler: MaskUpscaler,
    picture: TruePicture,
    known: Sequence[int],
    by_click: Named,
    vectors: np.ndarray,
    place: Mapping[str, int],
) -> None:
    """Click each object in the middle and name the mask with the highest predicted IoU."""
    points = []
    for i in known:
        rows, columns = np.nonzero(picture.objects[i].mask)
        middle = len(rows) // 2
        points.append((float(columns[middle]), float(rows[middle])))
    if not points:
        return
    output = model.decode(
        embedding,
        Prompts(
            torch.zeros(len(points), dtype=torch.long),
            points=upscaler.frame.points_to_input(np.array(points))[:, None],
            point_labels=torch.ones(len(points), 1),
        ),
        multimask_output=True,
    )
    best = output.iou_predictions.argmax(1)
    rows_ = torch.arange(len(best))
    by_click.add(
        [picture.objects[i].label for i in known],
        output.mask_embedding[rows_, best].numpy(),
        output.similarity[rows_, best].numpy(),
        vocabulary=place,
        vectors=vectors,
    )


def _row(scores: MaskScores, number: int) -> MaskScores:
    one = slice(number, number + 1)
    return MaskScores(
        box_iou=scores.box_iou[one],
        box_boundary_iou=scores.box_boundary_iou[one],
        click_iou={clicks: values[one] for clicks, values in scores.click_iou.items()},
        oracle_iou=scores.oracle_iou[one],
    )
