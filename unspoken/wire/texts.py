"""Texts to look for in pictures: their limits, their normal form, and `POST /text-embeddings`."""

import unicodedata
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from unspoken.errors import InvalidInput
from unspoken.wire.base import ModelInfo, ReplyModel, RequestModel

MAX_TEXTS = 1000
MAX_TEXT_CHARS = 256
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]

EMBEDDING_DIM = 768
EmbeddingSpace = Literal["text", "mask"]
"""`text`: the text encoder's own space, as in data sets.

`mask`: the segmenter's space, in which masks have their vectors. Texts are averaged over its
templates, minus the mean vector that it was trained with.
"""

# Hyphen, apostrophe and '&' are part of names ("t-shirt", "driver's seat"); other punctuation
# separates words.
_KEPT_PUNCTUATION = frozenset("-'&")


class TextEmbeddingsRequest(RequestModel):
    """Phrases to encode, and the space of their vectors."""

    phrases: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
    space: EmbeddingSpace = "text"

    model_config = ConfigDict(json_schema_extra={"examples": [{"phrases": ["car", "wheel"]}]})


class TextEmbeddingsReply(ReplyModel):
    """(N, 768) unit vectors in the order of the request; different spaces are not comparable."""

    embeddings: list[list[float]]
    space: EmbeddingSpace = "text"
    model: ModelInfo
    """The text encoder, or the segmenter if `space` is its own."""
    timings_ms: dict[str, float]


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
