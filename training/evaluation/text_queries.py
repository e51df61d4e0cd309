"""Quality of text queries: COCO's mask average precision over pictures and words.

Every picture is queried for every word of the vocabulary, present or not. An answer is a mask with
a score. pycocotools computes the figures, so they are comparable with published ones.
"""

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from training.evaluation.pictures import TruePicture
from unspoken.imaging.boxes import box_iou, non_maximum_suppression, order_by_score
from unspoken.imaging.masks import encode_rle
from unspoken.model.mask_bank import MaskBank
from unspoken.model.text_space import TextQuery, TextSpace

MAX_ANSWERS = 100  # best answers per picture over all words (COCO's limit)
NMS_IOU = 0.5


class TextAnswer(NamedTuple):
    """A mask for one word."""

    label: str
    rle: bytes
    score: float


AnswerQueries = Callable[[TruePicture], Sequence[TextAnswer]]


def average_precision(
    pictures: Iterable[TruePicture], answers: AnswerQueries, *, vocabulary: Sequence[str]
) -> dict[str, float]:
    """Return mask AP over IoU .5 to .95, and AP at .5, averaged over the words that occur."""
    category = {label: number for number, label in enumerate(vocabulary, start=1)}
    images: list[dict[str, object]] = []
    truth: list[dict[str, object]] = []
    found: list[dict[str, object]] = []
    for number, picture in enumerate(pictures, start=1):
        height, width = picture.pixels.shape[:2]
        images.append({"id": number, "height": height, "width": width})
        for each in picture.objects:
            if each.label in category:
                truth.append(
                    {
                        "id": len(truth) + 1,
                        "image_id": number,
                        "category_id": category[each.label],
                        "segmentation": _segmentation(encode_rle(each.mask[None])[0], picture),
                        "area": int(each.mask.sum()),
                        "bbox": _xywh(each.box_xyxy),
                        "iscrowd": 0,
                    }
                )
        best = sorted(answers(picture), key=lambda answer: -answer.score)[:MAX_ANSWERS]
        found += [
            {
                "image_id": number,
                "category_id": category[answer.label],
                "segmentation": _segmentation(answer.rle, picture),
                "score": answer.score,
            }
            for answer in best
        ]
    if not truth or not found:
        return {"ap": 0.0, "ap50": 0.0}
    return _evaluate(images, truth, found, vocabulary=vocabulary)


def _evaluate(
    images: list[dict[str, object]],
    truth: list[dict[str, object]],
    found: list[dict[str, object]],
    *,
    vocabulary: Sequence[str],
) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco = COCO()
        coco.dataset = {
            "images": images,
            "annotations": truth,
            "categories": [
                {"id": number, "name": name} for number, name in enumerate(vocabulary, start=1)
            ],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), iouType="segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {
        "ap": round(float(evaluation.stats[0]), 4),
        "ap50": round(float(evaluation.stats[1]), 4),
    }


def bank_answers(
    bank: MaskBank, space: TextSpace, *, vocabulary: Sequence[str]
) -> list[TextAnswer]:
    """Return each word's masks of a bank after NMS, scored as in the service."""
    if not len(bank):
        return []
    scores = space.bank_scores(bank, [TextQuery(label) for label in vocabulary])
    conflicts = box_iou(bank.boxes_xyxy, bank.boxes_xyxy) > NMS_IOU
    return [
        TextAnswer(label, bank.rle[index], float(row[index]))
        for label, row in zip(vocabulary, scores, strict=True)
        for index in non_maximum_suppression(order_by_score(row)[:MAX_ANSWERS], conflicts)
    ]


def _segmentation(counts: bytes, picture: TruePicture) -> dict[str, object]:
    return {"size": list(picture.pixels.shape[:2]), "counts": counts}


def _xywh(box_xyxy: tuple[float, float, float, float]) -> list[float]:
    x0, y0, x1, y1 = box_xyxy
    return [x0, y0, x1 - x0, y1 - y0]
