"""Detects the language of a caption by its words; rejects it only if the classifier is sure."""

from dataclasses import dataclass

from worker.label.caption_words import count_words, language_words
from worker.label.classifiers import DetectLanguage

MIN_WORDS = 3
"""Fewer words are too little evidence: "dog" alone is English with a probability of 0.12."""
MIN_SCORE_OF_MIN_WORDS = 0.95
"""Lowest score of another language for a caption of exactly MIN_WORDS words."""
MAX_WANTED_SCORE = 0.05
"""A caption is kept if the wanted language has a higher score than this."""
RELATIVES = (
    frozenset(("zh", "yue", "wuu", "ja")),
    frozenset(("ru", "uk", "be", "bg", "mk", "sr")),
    frozenset(("sv", "no", "nn", "da")),
    frozenset(("es", "ca", "gl", "pt")),
)
"""Groups of languages that a few words cannot distinguish. The scores of a group are added, unless
it contains the wanted language."""


@dataclass(frozen=True)
class CaptionLanguage:
    """The most probable language of a caption."""

    code: str
    score: float
    """Its probability plus that of its close relatives."""
    is_other: bool
    """True if the caption is certainly in another language than the wanted one."""


def judge_language(
    caption: str, *, wanted: str, min_score: float, detect: DetectLanguage
) -> CaptionLanguage | None:
    """Return the language of a caption; None if it has no words to judge.

    min_score: lowest probability at which a caption counts as another language. The classifier
    reads the words as written and in lower case, because names and titles mislead it.
    """
    words = language_words(caption)
    if not words:
        return None
    readings = [detect(each) for each in dict.fromkeys((words, words.lower()))]
    codes = {code for reading in readings for code in reading}
    scores = {
        code: sum(reading.get(code, 0.0) for reading in readings) / len(readings) for code in codes
    }
    code = max(scores, key=lambda each: (scores[each], each))
    score = sum(scores.get(each, 0.0) for each in _relatives(code, wanted=wanted))
    num_words = count_words(words)
    if num_words == MIN_WORDS:
        min_score = max(min_score, MIN_SCORE_OF_MIN_WORDS)
    is_other = (
        code != wanted
        and num_words >= MIN_WORDS
        and score >= min_score
        and scores.get(wanted, 0.0) <= MAX_WANTED_SCORE
    )
    return CaptionLanguage(code=code, score=score, is_other=is_other)


def _relatives(code: str, *, wanted: str) -> frozenset[str]:
    """Return the code with its close relatives; alone if the wanted language is one of them."""
    group = next((each for each in RELATIVES if code in each and wanted not in each), None)
    return group or frozenset((code,))
