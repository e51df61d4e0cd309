"""Normalise texts to look for in pictures, in the same way for every model."""

import unicodedata
from functools import lru_cache

from unspoken.errors import InvalidInput

# Hyphen, apostrophe and '&' are part of names ("t-shirt", "driver's seat"); other punctuation
# separates words.
_KEPT_PUNCTUATION = frozenset("-'&")


def normalise_phrase(phrase: str) -> str:
    """Return lower case with single spaces for punctuation; "" if nothing is left."""
    words = "".join(_readable(character) for character in unicodedata.normalize("NFC", phrase))
    text = " ".join(words.lower().split())
    return text if any(character.isalnum() for character in text) else ""


@lru_cache(maxsize=4096)
def checked_phrase(phrase: str) -> str:
    """Return the normal form. Raises InvalidInput for control characters or an empty result."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in phrase):
        raise InvalidInput("has control characters")
    text = normalise_phrase(phrase)
    if not text:
        raise InvalidInput(f"has nothing to look for: {phrase!r}")
    return text


def _readable(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":  # soft hyphens and joiners are inside words
        return ""
    separates = category[0] in "PSZ" and character not in _KEPT_PUNCTUATION
    return " " if separates else character
