"""Extract nouns from a caption: the things it names, and the things it says are absent.

Only visible text counts: markup, URLs and hidden characters are ignored.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from unspoken.text.lexicon import Lexicon, words
from unspoken.text.phrases import GENERIC_WORDS, MAX_PHRASES, STOP_WORDS, singular_phrase

MAX_CAPTION_CHARS = 4000

# Nouns that are also colours or materials: before another noun they only describe it.
MODIFIERS = words(
    """
    orange gold silver bronze copper rose peach lime mint cream chocolate ivory coral wood glass
    stone brick leather plastic metal paper cotton silk wool velvet denim marble granite
    concrete rubber diamond pearl steel light ice water
    """
)
NEGATIONS = frozenset({"no", "without"})

# HTML tags, entities, URLs and e-mail addresses, which alt texts of web pages contain.
_HIDDEN = re.compile(
    r"<!--.*?(?:-->|$)|<[/!?]?[a-z][^<>]*>?|&#?\w{1,31};"
    r"|(?:https?|ftp|data|javascript):\S+|www\.\S+|[\w.+-]{1,64}@\S+",
    re.IGNORECASE | re.DOTALL,
)
# Whole words only: "carpé" must not match "carp".
_WORD = re.compile(r"(?<!\w)[a-z]+(?:[-'][a-z]+)*(?!\w)")
_LAST_WORD = re.compile(r"(?<![\w'-])[\w'-]+$")
_CLAUSE_END = re.compile(r"[,.;:!?()\[\]|/]")


def caption_nouns(caption: str, lexicon: Lexicon) -> list[str]:
    """Return the visible things that the caption names: in order, unique, singular.

    The longest known term is used: "dining table" does not also give "table". Negated nouns ("no
    people") and colours or materials directly before another noun ("orange car") are left out.
    """
    found: dict[str, None] = {}
    for clause in _clauses(caption):
        negated = False
        position = 0
        while position < len(clause):
            word = clause[position]
            if word in NEGATIONS:
                negated = True
            term, length = _longest_term(clause, position, lexicon)
            if not term:
                # A negation applies across adjectives only: "no people in the street".
                negated = negated and (word in NEGATIONS or word not in STOP_WORDS)
                position += 1
                continue
            describes = term in MODIFIERS and _longest_term(clause, position + 1, lexicon)[1] > 0
            if not negated and not describes:
                found.setdefault(term)
            position += length
    return list(found)[:MAX_PHRASES]


def negated_nouns(caption: str, lexicon: Lexicon) -> set[str]:
    """Return the things that the caption says are absent: "street without cars" -> {"car"}."""
    absent: set[str] = set()
    for clause in _clauses(caption):
        for position, word in enumerate(clause):
            if word not in NEGATIONS:
                continue
            for later in range(position + 1, len(clause)):
                term, _ = _longest_term(clause, later, lexicon)
                if term:
                    absent.add(term)
                    break
                if clause[later] in STOP_WORDS and clause[later] not in ("any", "a", "the", "an"):
                    break
    return absent


def is_named(phrase: str, caption: str, lexicon: Lexicon) -> bool:
    """Return True if the phrase's head, or a synonym of it, occurs in the caption.

    "teddy-bear" and "teddy bear" are the same; "x-ray" does not contain "ray".
    """
    head = lexicon.head(singular_phrase(phrase.lower(), lexicon))
    clauses = [_singulars(clause, lexicon) for clause in _clauses(caption)]
    text = f" {' , '.join(clauses)} "
    for synonym in lexicon.synonyms_of(head):
        term = f" {_singulars(synonym.split(), lexicon)} "
        if term in text or (" " in synonym and term in text.replace("-", " ")):
            return True
    return False


def prose(caption: str) -> str:
    """Return the visible text of a caption in lower case.

    Markup, URLs and e-mail addresses are removed. Soft hyphens and direction marks are removed
    without splitting the word.
    """
    text = unicodedata.normalize("NFKC", caption[:MAX_CAPTION_CHARS])
    text = "".join(_visible(char) for char in text)
    if len(caption) > MAX_CAPTION_CHARS:
        text = _LAST_WORD.sub("", text)  # the cut may have turned "cobra" into "cob"
    return _HIDDEN.sub(" ", text).lower().replace("\u2019", "'").replace("_", " ")


def _visible(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Cf":
        return ""
    return " " if category.startswith("C") else char


@lru_cache(maxsize=64)  # because it is called once for each phrase of a caption
def _clauses(caption: str) -> tuple[tuple[str, ...], ...]:
    """Return the caption's words in lower case, grouped by clause."""
    parts = _CLAUSE_END.split(prose(caption))
    return tuple(tuple(word.removesuffix("'s") for word in _WORD.findall(part)) for part in parts)


def _singulars(clause: Sequence[str], lexicon: Lexicon) -> str:
    return " ".join(lexicon.singular(word) for word in clause)


def _longest_term(clause: Sequence[str], position: int, lexicon: Lexicon) -> tuple[str, int]:
    """Return the longest known term at `position` and its number of words; ("", 0) for none.

    A term has one or two words.
    """
    for length in (2, 1):
        *first, last = clause[position : position + length] or [""]
        if len(first) + 1 < length or last in STOP_WORDS or not STOP_WORDS.isdisjoint(first):
            continue
        term = " ".join([*first, lexicon.singular(last)])
        if lexicon.knows(term) and term not in GENERIC_WORDS:
            return term, length
    return "", 0
