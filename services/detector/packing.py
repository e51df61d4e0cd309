"""Phrases -> as few text prompts as possible, none over what Grounding-DINO reads.

Grounding-DINO takes phrases as one text, "red mug. table.", of at most 256 word pieces, and cuts
what is longer without a word. So word pieces are counted here, with the model's own tokenizer, and
phrases are packed greedily into chunks. A full stop or question mark inside a phrase would split
it, so punctuation becomes a space. Knows neither torch nor transformers.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unspoken.errors import InvalidInput

MAX_WORD_PIECES = 250
"""Of a chunk, separators and specials included; the model's own limit is 256."""
MAX_PHRASES = 40
"""Of a chunk: GLIP's number for many-label vocabularies, more crowd each other's scores out."""
_SPECIAL_PIECES = 2  # [CLS] and [SEP]
_SEPARATOR_PIECES = 1  # the full stop behind each phrase

# Hyphen, apostrophe and '&' belong to names ("t-shirt", "driver's seat"); the rest separates.
_KEPT_PUNCTUATION = frozenset("-'&")

WordPieces = Callable[[str], Sequence[int]]
"""Ids of a normalised phrase's word pieces, without specials."""


@dataclass(frozen=True)
class PackedPhrase:
    """A distinct phrase in a chunk, and where it came from.

    text: normalised; asked_indices: positions in the request, one or several; token_span: [start,
    end) of its own word pieces in the chunk's tokens, without separators.
    """

    text: str
    asked_indices: tuple[int, ...]
    token_span: tuple[int, int]


@dataclass(frozen=True)
class Chunk:
    """Phrases that are asked in one forward pass; text_prompt is "red mug . table."."""

    phrases: tuple[PackedPhrase, ...]
    piece_ids: tuple[tuple[int, ...], ...]
    """Word pieces of each phrase, in the same order."""

    @property
    def text_prompt(self) -> str:
        """The words that the model reads."""
        return " . ".join(phrase.text for phrase in self.phrases) + "."

    @property
    def num_tokens(self) -> int:
        """Word pieces with separators and specials."""
        return _SPECIAL_PIECES + sum(len(ids) + _SEPARATOR_PIECES for ids in self.piece_ids)

    def token_ids(self, *, cls_id: int, separator_id: int, sep_id: int) -> list[int]:
        """The chunk as the tokenizer would write it: [CLS] red mug . table . [SEP]."""
        ids = [cls_id]
        for pieces in self.piece_ids:
            ids += [*pieces, separator_id]
        return [*ids, sep_id]


def normalise_phrase(phrase: str) -> str:
    """Lower case, punctuation as spaces, single spaces; "" when nothing is left."""
    words = "".join(_readable(character) for character in unicodedata.normalize("NFC", phrase))
    text = " ".join(words.lower().split())
    return text if any(character.isalnum() for character in text) else ""


def pack_phrases(
    phrases: Sequence[str],
    word_pieces: WordPieces,
    *,
    max_word_pieces: int = MAX_WORD_PIECES,
    max_phrases: int = MAX_PHRASES,
) -> list[Chunk]:
    """Pack phrases in the order asked; equal ones after normalisation stand once.

    Raises InvalidInput with the index of a phrase that has control characters, nothing to look for,
    or more word pieces than a chunk.
    """
    asked: dict[str, list[int]] = {}
    for index, phrase in enumerate(phrases):
        asked.setdefault(_checked(phrase, index), []).append(index)

    chunks: list[Chunk] = []
    packed: list[PackedPhrase] = []
    piece_ids: list[tuple[int, ...]] = []
    start = 1  # behind [CLS]
    for text, indices in asked.items():
        pieces = tuple(word_pieces(text))
        _check_pieces(pieces, phrases[indices[0]], indices[0], limit=max_word_pieces)
        end = start + len(pieces)
        if packed and (end + 2 > max_word_pieces or len(packed) == max_phrases):
            chunks.append(Chunk(phrases=tuple(packed), piece_ids=tuple(piece_ids)))
            packed, piece_ids = [], []
            start, end = 1, 1 + len(pieces)
        packed.append(
            PackedPhrase(text=text, asked_indices=tuple(indices), token_span=(start, end))
        )
        piece_ids.append(pieces)
        start = end + _SEPARATOR_PIECES
    if packed:
        chunks.append(Chunk(phrases=tuple(packed), piece_ids=tuple(piece_ids)))
    return chunks


def _checked(phrase: str, index: int) -> str:
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in phrase):
        raise InvalidInput(
            f"phrases[{index}] has control characters", details={"phrase_index": index}
        )
    text = normalise_phrase(phrase)
    if not text:
        raise InvalidInput(
            f"phrases[{index}] has nothing to look for: {phrase!r}",
            details={"phrase_index": index},
        )
    return text


def _check_pieces(pieces: Sequence[int], phrase: str, index: int, *, limit: int) -> None:
    room = limit - _SPECIAL_PIECES - _SEPARATOR_PIECES
    if not pieces:
        raise InvalidInput(
            f"phrases[{index}] has nothing that the model's tokenizer reads: {phrase!r}",
            details={"phrase_index": index},
        )
    if len(pieces) > room:
        raise InvalidInput(
            f"phrases[{index}] has {len(pieces)} word pieces, at most {room} can be asked",
            details={"phrase_index": index, "word_pieces": len(pieces)},
        )


def _readable(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":  # soft hyphens and joiners stand inside words
        return ""
    separates = category[0] in "PSZ" and character not in _KEPT_PUNCTUATION
    return " " if separates else character
