"""Parse a language model's raw answer into clean noun phrases.

The result is restricted: a phrase is one to three lower-case latin words of at most 30 characters,
in the singular, and its head is a known visible thing. Everything else is rejected with a reason.
The functions of this file are in the order of the steps.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from unspoken.text.lexicon import STUFF, Lexicon, words
from unspoken.wire.proposals import RejectedCandidate

MAX_PHRASES = 40
MAX_PHRASE_CHARS = 30
MAX_PHRASE_WORDS = 3
MAX_RAW_CHARS = 4000
MAX_RAW_ITEMS = 80

# Words that describe pictures rather than things in them (from OWLv2's list and LAION's alt texts).
GENERIC_WORDS = words(
    """
    image photo photograph photography picture background wallpaper stock shutterstock getty
    alamy video vector download free clipart illustration drawing graphic template design
    pattern texture art artwork print icon logo view scene closeup close-up shot footage clip
    file format resolution isolated copy space copyspace object thing item stuff none nothing
    something anything other others etc unknown various color colour size style type kind
    caption answer example
    """
)
STOP_WORDS = words(
    """
    a an the this that these those some any no not of in on at to from by with without for and
    or but as is are was were be been being am do does did done has have had can could will
    would shall should may might must it its he his him she her they them their we us our you
    your i me my who what which when where why how all both each few more most many much several
    such own same so than too very just only over under up down out off above below into onto
    near next behind between through during before after again here there then once one two
    three four five six seven eight nine ten
    """
)
# "pair of glasses" means glasses, but "cup of coffee" means the cup.
PARTITIVES = words(
    """
    pair group piece slice bunch set kind sort type number couple lot row pile stack bit part
    crowd collection series variety plenty majority
    """
)

_SPLIT = re.compile(r"[,;/|•·]|\s-\s|(?<!\d)\.\s")
_NUMBERING = re.compile(r"^\s*(?:[-*•·]+|\(?\d{1,3}[.):]|[a-z][.)]\s)\s*")
_LEADING = re.compile(
    r"^(?:(?:a|an|the|some|his|her|its|their|this|that|these|those|several|many|few|one|two|three|"
    r"four|five|six|seven|eight|nine|ten|and|or|also|other|various|multiple)\s+|\d{1,3}\s+)+"
)
_CLAUSE = re.compile(
    r"\s+(?:with|of|on|in|at|from|for|by|near|under|over|behind|beside|inside|that|which|who|is|are|"
    r"to|as|like)\s+.*$"
)
_PARTITIVE = re.compile(rf"^(?:{'|'.join(sorted(PARTITIVES))})s?\s+of\s+(?=\S)")
_URL = re.compile(r"https?:|www\.|\.(?:com|net|org|io|jpe?g|png|gif|webp|svg|pdf|html?)\b|@")
_GRAMMAR = re.compile(r"^[a-z]+(?:[-'][a-z]+)*(?: [a-z]+(?:[-'][a-z]+)*){0,2}$")


@dataclass(frozen=True)
class ParsedPhrase:
    """An accepted phrase; `rank` is its position in the model's list, starting at 0."""

    text: str
    raw: str
    rank: int
    stuff: bool


@dataclass(frozen=True)
class ParsedPhrases:
    """Accepted phrases of one raw answer, in the model's order, and rejected phrases."""

    phrases: tuple[ParsedPhrase, ...]
    rejected: tuple[RejectedCandidate, ...]


def parse_phrases(raw_text: str, *, template: str, lexicon: Lexicon) -> ParsedPhrases:
    """Parse the phrases of one raw answer. Never raises: any text gives valid phrases or none.

    `template` is recorded in the rejected phrases.
    """
    phrases: dict[str, ParsedPhrase] = {}
    rejected: list[RejectedCandidate] = []
    for rank, raw in enumerate(split_items(raw_text, lexicon)):
        text = clean_item(raw)
        reason = rejection_of(text, lexicon)
        if reason is None:
            text = singular_phrase(text, lexicon)
            reason = _repeats(text, phrases)
        if reason is None and len(phrases) >= MAX_PHRASES:
            reason = "over the cap"
        if reason is None:
            stuff = is_stuff(text, lexicon)
            phrases[text] = ParsedPhrase(text=text, raw=raw[:100], rank=rank, stuff=stuff)
        else:
            rejected.append(
                RejectedCandidate(raw=raw[:100], reason=reason, template=template, rank=rank)
            )
    return ParsedPhrases(phrases=tuple(phrases.values()), rejected=tuple(rejected))


def answer_line(raw_text: str) -> str:
    """Return the answer's first line, cut where the model starts another "Caption:" block."""
    answer = raw_text[:MAX_RAW_CHARS].split("Caption:")[0].lstrip()
    return answer.split("\n", 1)[0]


def split_items(raw_text: str, lexicon: Lexicon) -> list[str]:
    """Return the items of the answer's first line, at most MAX_RAW_ITEMS."""
    items: list[str] = []
    for item in _SPLIT.split(answer_line(raw_text)):
        items += _split_and(item, lexicon)
    return [item.strip() for item in items if item.strip()][:MAX_RAW_ITEMS]


def clean_item(raw: str) -> str:
    """Return the item in lower case, without numbering, quotes, articles, counts and clauses."""
    text = plain_item(kind_of_name(raw))
    return cut_clause(strip_determiners(strip_numbering(text)))


def kind_of_name(raw: str) -> str:
    """Return the kind of thing that a name stands for: "Mustang = car" -> " car"."""
    return raw.rpartition("=")[2]


def plain_item(raw: str) -> str:
    """Return the item in NFKC and lower case, with single spaces and without underscores."""
    text = unicodedata.normalize("NFKC", raw).lower().replace("\u2019", "'").replace("_", " ")
    return re.sub(r" {2,}", " ", text.strip(" "))


def strip_numbering(text: str) -> str:
    """Remove a leading bullet or number, and surrounding quotes or brackets."""
    return _NUMBERING.sub("", text).strip(" \"'`*()[]{}<>.:!?")


def strip_determiners(text: str) -> str:
    """Remove articles, counts and partitives: "pair of glasses" -> "glasses"."""
    return _LEADING.sub("", _PARTITIVE.sub("", _LEADING.sub("", text)))


def cut_clause(text: str) -> str:
    """Remove what follows "with", "of", "on" and the like: "cup of coffee" -> "cup"."""
    return _CLAUSE.sub("", text).strip()


def joined(text: str) -> str:
    """Return the phrase without hyphens and spaces, for comparison.

    "teddy-bear", "teddy bear" and "teddybear" are equal.
    """
    return text.replace("-", "").replace(" ", "")


def rejection_of(text: str, lexicon: Lexicon) -> str | None:
    """Return the reason why a cleaned item is not a phrase; None if it is one."""
    for reason, holds in _REFUSALS:
        if holds(text):
            return reason
    if not lexicon.knows(lexicon.head(singular_phrase(text, lexicon))):
        return "unknown or abstract"
    return None


def singular_phrase(text: str, lexicon: Lexicon) -> str:
    """Return the phrase with its last word in the singular, in the lexicon's spelling."""
    if lexicon.knows(text):
        return text
    *modifiers, last = text.split(" ")
    phrase = " ".join([*modifiers, lexicon.singular(last)])
    if "-" not in phrase or lexicon.knows(lexicon.head(phrase)):
        return phrase
    spaced = singular_phrase(text.replace("-", " "), lexicon)
    return spaced if lexicon.knows(spaced) else phrase


def is_stuff(text: str, lexicon: Lexicon) -> bool:
    """Return True if the head is an amorphous region: sky, grass, floor."""
    return lexicon.head(text) in STUFF


def _split_and(item: str, lexicon: Lexicon) -> list[str]:
    """Split "salt and pepper" but not "black and white cat": only between two things."""
    parts = re.split(r"\s+(?:and|&)\s+", item.strip())
    if all(rejection_of(clean_item(part), lexicon) is None for part in parts):
        return parts
    return [item]


def _repeats(text: str, phrases: dict[str, ParsedPhrase]) -> str | None:
    return "repeated" if joined(text) in map(joined, phrases) else None


def _has_control_character(text: str) -> bool:
    return any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn") for char in text)


def _is_non_latin(text: str) -> bool:
    return any(char.isalpha() and not "a" <= char <= "z" for char in text)


def _has_only_stop_words(text: str) -> bool:
    return all(word in STOP_WORDS for word in text.split())


def _is_generic(text: str) -> bool:
    return any(
        word in GENERIC_WORDS or word.removesuffix("s") in GENERIC_WORDS for word in text.split()
    )


# Checked in this order; the first that applies is the reason.
_REFUSALS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("control character", _has_control_character),
    ("too short", lambda text: len(text) < 2),
    ("url", lambda text: _URL.search(text) is not None),
    ("too long", lambda text: len(text) > MAX_PHRASE_CHARS),
    ("too many words", lambda text: len(text.split()) > MAX_PHRASE_WORDS),
    ("digits", lambda text: any(char.isdigit() for char in text)),
    ("not latin", _is_non_latin),
    ("malformed", lambda text: _GRAMMAR.match(text) is None),
    ("only stop words", _has_only_stop_words),
    ("none", lambda text: text == "none"),
    ("negated", lambda text: text.startswith(("no ", "without "))),
    ("generic", _is_generic),
)
