"""The words and the language of a caption, in scripts with and without spaces between words.

Chinese, Japanese, Thai, Lao, Khmer and Burmese are written without spaces between words. Their
number of words is estimated from an average length. No word segmenter is needed, because the only
question is whether a caption has one word or three. A caption is rejected for its language only if
the classifier is sure.
"""

import re
import unicodedata
from dataclasses import dataclass

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

# Han with its extensions, kana in both widths, bopomofo.
_HAN_AND_KANA = (
    "\u3005-\u3007\u3040-\u30ff\u3105-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U000323af"
)
_MYANMAR_AND_KHMER = "\u1000-\u109f\u1780-\u17ff"
_THAI_AND_LAO = "\u0e00-\u0eff"
UNSPACED = _HAN_AND_KANA + _MYANMAR_AND_KHMER + _THAI_AND_LAO
"""Characters of scripts without spaces, as the inside of a regular expression's class."""

_LETTERS_PER_WORD = (
    (re.compile(f"[{_HAN_AND_KANA}]"), 2),
    (re.compile(f"[{_MYANMAR_AND_KHMER}]"), 2),  # vowels are combining marks and not counted
    (re.compile(f"[{_THAI_AND_LAO}]"), 3),
)
_UNSPACED_RUN = re.compile(f"[{UNSPACED}]+")
_WORD = re.compile(r"\w+")
_EDGES = ".,;:!?()[]{}<>\"'«»“”„‘’…·-–—/|*+&~=。、，！？（）「」『』【】《》"  # noqa: RUF001
_NO_WORD = re.compile(r"\d|_|@|#|://|^www\.|\.[a-z]{2,4}$", re.IGNORECASE)


def count_words(text: str) -> int:
    """Return the number of words; an estimate for scripts without spaces."""
    count = 0
    for token in text.split():
        if not _UNSPACED_RUN.search(token):
            count += 1
            continue
        count += len(_WORD.findall(_UNSPACED_RUN.sub(" ", token)))
        for script, per_word in _LETTERS_PER_WORD:
            letters = sum(unicodedata.category(each)[0] == "L" for each in script.findall(token))
            count += -(-letters // per_word)
    return count


def is_unspaced(text: str) -> bool:
    """Return True if every character of the text belongs to a script without spaces."""
    return _UNSPACED_RUN.fullmatch(text) is not None


def language_words(caption: str) -> str:
    """Return the words that identify a caption's language, joined by single spaces.

    Leaves out file names, addresses, numbers and codes, single capitals, hashtags, and words in
    capitals, unless the whole caption is in capitals.
    """
    tokens = [token.strip(_EDGES) for token in caption.split()]
    words = [
        token
        for token in tokens
        if any(character.isalpha() for character in token) and not _NO_WORD.search(token)
    ]
    is_all_capitals = all(word.upper() == word for word in words)
    kept = [word for word in words if is_all_capitals or not word.isupper()]
    return " ".join(kept)


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
    """Return the code and its close relatives; only the code if the wanted language is related."""
    group = next((each for each in RELATIVES if code in each and wanted not in each), None)
    return group or frozenset((code,))
