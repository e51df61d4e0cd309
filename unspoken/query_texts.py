"""Texts that are looked for in pictures: one normal form, whichever model is asked."""

import unicodedata

from unspoken.errors import InvalidInput

# Hyphen, apostrophe and '&' belong to names ("t-shirt", "driver's seat"); the rest separates.
_KEPT_PUNCTUATION = frozenset("-'&")


def normalise_phrase(phrase: str) -> str:
    """Return lower case with single spaces for punctuation; "" when nothing is left."""
    words = "".join(_readable(character) for character in unicodedata.normalize("NFC", phrase))
    text = " ".join(words.lower().split())
    return text if any(character.isalnum() for character in text) else ""


def checked_phrase(phrase: str) -> str:
    """Return the normal form. Raises InvalidInput for control characters and for no words."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in phrase):
        raise InvalidInput("has control characters")
    text = normalise_phrase(phrase)
    if not text:
        raise InvalidInput(f"has nothing to look for: {phrase!r}")
    return text


def _readable(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":  # soft hyphens and joiners stand inside words
        return ""
    separates = category[0] in "PSZ" and character not in _KEPT_PUNCTUATION
    return " " if separates else character
