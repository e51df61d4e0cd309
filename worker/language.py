"""The language of a caption: judged by its words, and only where the classifier is sure."""

from dataclasses import dataclass

from worker.caption_words import count_words, language_words
from worker.classifiers import DetectLanguage

MIN_WORDS = 3
"""Fewer say too little: "dog" alone is English with a probability of .12."""
MIN_SCORE_OF_MIN_WORDS = 0.95
"""Least score of another language where there are no more words than that."""
MAX_WANTED_SCORE = 0.05
"""A caption is kept where the wanted language has more than this."""
RELATIVES = (
    frozenset(("zh", "yue", "wuu", "ja")),
    frozenset(("ru", "uk", "be", "bg", "mk", "sr")),
    frozenset(("sv", "no", "nn", "da")),
    frozenset(("es", "ca", "gl", "pt")),
)
"""Languages that a few words do not tell apart. Their scores add up, unless one is wanted."""


@dataclass(frozen=True)
class CaptionLanguage:
    """The most probable language of a caption."""

    code: str
    score: float
    """Its probability, with that of its close relatives."""
    is_other: bool
    """It is surely not the wanted one."""


def judge_language(
    caption: str, *, wanted: str, min_score: float, detect: DetectLanguage
) -> CaptionLanguage | None:
    """Return the language of a caption; None where it has no words to judge.

    min_score: probability from which another language counts. The classifier reads the words as
    they are and in lower case, because names and titles mislead it.
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
    """Return the code with its close relatives; alone where the wanted language is one of them."""
    group = next((each for each in RELATIVES if code in each and wanted not in each), None)
    return group or frozenset((code,))
