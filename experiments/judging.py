"""Count how a source's phrases and boxes for one picture agree with the truth.

An object is found at an IoU if a box overlaps it by that much and the box's label, or one of its
alternatives, means the object's label. Label-agnostic figures ignore the labels. A box is right if
it finds an object at IoU .5. Labels that the truth cannot judge are ignored. The rules are those of
`smallworld.truth`, extended to more IoUs and to incomplete truths.

Counts are summed over pictures and then divided, so every figure is a ratio of two columns, and the
bootstrap resamples pictures.

Legend: P pictures, C columns.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from experiments.collections.truth import LabelMatcher, PictureTruth
from unspoken.imaging.boxes import box_iou
from unspoken.runs.dataset.rows import Annotation

IOUS = np.arange(0.5, 1.0, 0.05)
"""COCO's ten IoU thresholds."""

RATIOS: Mapping[str, tuple[str, str]] = {
    # Proposed phrases, before detection.
    "label_recall_exact": ("labels_spelled", "labels"),
    "label_recall": ("labels_meant", "labels"),
    "label_recall_hypernym": ("labels_above", "labels"),
    "unnamed_label_recall": ("unnamed_labels_meant", "unnamed_labels"),
    "part_label_recall": ("part_labels_meant", "part_labels"),
    "phrase_precision": ("phrases_right", "phrases_judged"),
    "queries_per_picture": ("phrases", "pictures"),
    # Recall of objects.
    "recall_50": ("all_50", "objects"),
    "recall_75": ("all_75", "objects"),
    "average_recall": ("all_mean", "objects"),
    "agnostic_recall_50": ("agnostic_50", "objects"),
    "agnostic_recall_75": ("agnostic_75", "objects"),
    "agnostic_average_recall": ("agnostic_mean", "objects"),
    "named_recall_50": ("named_50", "named_objects"),
    "unnamed_recall_50": ("unnamed_50", "unnamed_objects"),
    "unnamed_recall_75": ("unnamed_75", "unnamed_objects"),
    "unnamed_average_recall": ("unnamed_mean", "unnamed_objects"),
    "part_recall_50": ("part_50", "part_objects"),
    # Precision and number of boxes.
    "box_precision_50": ("boxes_right", "boxes_judged"),
    "unnamed_box_precision_50": ("implied_boxes_right", "implied_boxes_judged"),
    "found_phrase_precision": ("found_right", "found_judged"),
    "boxes_per_picture": ("boxes", "pictures"),
    "labels_per_picture": ("box_labels", "pictures"),
    "implied_share_of_boxes": ("implied_boxes", "boxes"),
}
"""Figure -> its columns (numerator, denominator)."""

COLUMNS = tuple(sorted({column for pair in RATIOS.values() for column in pair}))
_PLACES = {column: place for place, column in enumerate(COLUMNS)}

Meaning = Callable[[str], frozenset[str]]


def count_picture(
    phrases: Sequence[str],
    kept: Sequence[Annotation],
    truth: PictureTruth,
    matcher: LabelMatcher,
    *,
    meaning: Meaning | None = None,
) -> np.ndarray:
    """Return the counts of one picture: (C,).

    phrases: the queried phrases; kept: the kept boxes; meaning: phrase -> labels, if it differs
    from the matcher's (a whole caption means all labels that it names).
    """
    meant = meaning or matcher.meant
    spelled = meaning or matcher.spelled
    counts = {
        "pictures": 1,
        **_count_labels(phrases, truth, meant=meant, spelled=spelled, below=matcher.below),
        **_count_objects(kept, truth, meant=meant),
        **_count_boxes(kept, truth, meant=meant),
    }
    row = np.zeros(len(COLUMNS))
    for column, value in counts.items():
        row[_PLACES[column]] = value
    return row


def ratios(totals: np.ndarray) -> dict[str, np.ndarray]:
    """Divide summed counts: (..., C) -> figure -> (...); NaN if the denominator is 0."""
    figures = {}
    for name, (numerator, denominator) in RATIOS.items():
        top, bottom = totals[..., _PLACES[numerator]], totals[..., _PLACES[denominator]]
        out = np.full(np.shape(top), np.nan)
        figures[name] = np.divide(top, bottom, out=out, where=bottom > 0)
    return figures


def _count_labels(
    phrases: Sequence[str],
    truth: PictureTruth,
    *,
    meant: Meaning,
    spelled: Meaning,
    below: Meaning,
) -> dict[str, float]:
    proposed = frozenset[str]().union(*(meant(phrase) for phrase in phrases))
    exact = frozenset[str]().union(*(spelled(phrase) for phrase in phrases))
    broader = frozenset[str]().union(*(below(phrase) for phrase in phrases))
    unnamed = truth.shown - truth.named
    right, judged = _verdicts(phrases, truth, meant=meant)
    return {
        "phrases": len(phrases),
        "phrases_right": right,
        "phrases_judged": judged,
        "labels": len(truth.shown),
        "labels_spelled": len(truth.shown & exact),
        "labels_meant": len(truth.shown & proposed),
        "labels_above": len(truth.shown & (proposed | broader)),
        "unnamed_labels": len(unnamed),
        "unnamed_labels_meant": len(unnamed & proposed),
        "part_labels": len(truth.part_labels),
        "part_labels_meant": len(truth.part_labels & proposed),
    }


def _verdicts(phrases: Iterable[str], truth: PictureTruth, *, meant: Meaning) -> tuple[int, int]:
    """Return the number of phrases that name a present object, and of those that can be judged."""
    right = judged = 0
    for phrase in phrases:
        is_there = bool(meant(phrase) & truth.shown)
        right += is_there
        judged += is_there or truth.can_refute(meant(phrase))
    return right, judged


def _labels_of(box: Annotation, meant: Meaning) -> frozenset[str]:
    return frozenset().union(*(meant(label) for label in box.all_labels))


def _count_objects(
    kept: Sequence[Annotation], truth: PictureTruth, *, meant: Meaning
) -> dict[str, float]:
    overlaps = _overlaps(kept, truth)  # (boxes, objects)
    fits = _fits(kept, truth, meant=meant)
    aware = np.where(fits, overlaps, 0.0).max(axis=0, initial=0.0)  # best IoU of each object
    agnostic = overlaps.max(axis=0, initial=0.0)
    groups = {
        "all": [True for _ in truth.objects],
        "named": [each.label in truth.named for each in truth.objects],
        "unnamed": [each.label not in truth.named for each in truth.objects],
        "part": [each.is_part for each in truth.objects],
    }
    counts: dict[str, float] = {"objects": len(truth.objects)}
    for name, members in groups.items():
        chosen = np.array(members, dtype=bool)
        counts[f"{name}_objects"] = int(chosen.sum())
        counts |= _found_at(name, aware[chosen])
    counts |= _found_at("agnostic", agnostic)
    return {column: value for column, value in counts.items() if column in _PLACES}


def _found_at(name: str, best: np.ndarray) -> dict[str, float]:
    return {
        f"{name}_50": float((best >= 0.5).sum()),
        f"{name}_75": float((best >= 0.75).sum()),
        f"{name}_mean": float((best[:, None] >= IOUS - 1e-9).mean(axis=1).sum()),
    }


def _count_boxes(
    kept: Sequence[Annotation], truth: PictureTruth, *, meant: Meaning
) -> dict[str, float]:
    hits = (_fits(kept, truth, meant=meant) & (_overlaps(kept, truth) >= 0.5)).any(axis=1)
    judged = hits | np.array([truth.can_refute(_labels_of(box, meant)) for box in kept], dtype=bool)
    implied = np.array([not box.named for box in kept], dtype=bool)
    found = list(dict.fromkeys(label for box in kept for label in box.all_labels))
    found_right, found_judged = _verdicts(found, truth, meant=meant)
    return {
        "boxes": len(kept),
        "boxes_right": int(hits.sum()),
        "boxes_judged": int(judged.sum()),
        "implied_boxes": int(implied.sum()),
        "implied_boxes_right": int((hits & implied).sum()),
        "implied_boxes_judged": int((judged & implied).sum()),
        "box_labels": len({box.label for box in kept}),
        "found_right": found_right,
        "found_judged": found_judged,
    }


def _overlaps(kept: Sequence[Annotation], truth: PictureTruth) -> np.ndarray:
    return box_iou(
        np.array([box.box for box in kept]).reshape(-1, 4),
        np.array([each.box_xyxy for each in truth.objects]).reshape(-1, 4),
    )


def _fits(kept: Sequence[Annotation], truth: PictureTruth, *, meant: Meaning) -> np.ndarray:
    """Match labels: True if a box's labels mean the object's, (boxes, objects) bool."""
    labels = [_labels_of(box, meant) for box in kept]
    rows = [[each.label in mine for each in truth.objects] for mine in labels]
    return np.array(rows, dtype=bool).reshape(len(kept), len(truth.objects))
