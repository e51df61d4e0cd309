"""Pack phrases into as few text prompts as possible, within Grounding-DINO's limit.

Grounding-DINO takes phrases as one text, "red mug. table.", of at most 256 word pieces, and
silently truncates a longer one. So this module counts word pieces with the model's own tokenizer
and packs phrases greedily into chunks. A full stop or question mark inside a phrase would split it,
so punctuation becomes a space. This module imports neither torch nor transformers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from unspoken.errors import InvalidInput
from unspoken.wire.texts import checked_phrase

MAX_WORD_PIECES = 250
"""Limit of a chunk, with separators and special tokens; the model's own limit is 256."""
MAX_PHRASES = 40
"""Limit of a chunk: GLIP's number for large vocabularies. More phrases suppress each other."""
_SPECIAL_PIECES = 2  # [CLS] and [SEP]
_SEPARATOR_PIECES = 1  # the full stop after each phrase

WordPieces = Callable[[str], Sequence[int]]
"""Function from a normalised phrase to the ids of its word pieces, without special tokens."""


@dataclass(frozen=True)
class PackedPhrase:
    """A distinct phrase of a chunk.

    text: the normalised phrase. asked_indices: its positions in the request, one or several.
    token_span: [start, end) of its word pieces in the chunk's tokens, without separators.
    """

    text: str
    asked_indices: tuple[int, ...]
    token_span: tuple[int, int]


@dataclass(frozen=True)
class PromptChunk:
    """Phrases that share one text prompt, "red mug . table.", and one forward pass."""

    phrases: tuple[PackedPhrase, ...]
    piece_ids: tuple[tuple[int, ...], ...]
    """Word pieces of each phrase, in the same order."""

    @property
    def text_prompt(self) -> str:
        """The text that the model reads."""
        return " . ".join(phrase.text for phrase in self.phrases) + "."

    @property
    def num_tokens(self) -> int:
        """Number of word pieces, with separators and special tokens."""
        return _SPECIAL_PIECES + sum(len(ids) + _SEPARATOR_PIECES for ids in self.piece_ids)

    def token_ids(self, *, cls_id: int, separator_id: int, sep_id: int) -> list[int]:
        """Return the chunk's token ids as a tokenizer would: [CLS] red mug . table . [SEP]."""
        ids = [cls_id]
        for pieces in self.piece_ids:
            ids += [*pieces, separator_id]
        return [*ids, sep_id]


def pack_phrases(
    phrases: Sequence[str],
    word_pieces: WordPieces,
    *,
    max_word_pieces: int = MAX_WORD_PIECES,
    max_phrases: int = MAX_PHRASES,
) -> list[PromptChunk]:
    """Pack phrases into chunks in the order asked; duplicates after normalisation are merged.

    Raises InvalidInput with the indices of all bad phrases. A phrase is bad if it has control
    characters, no searchable text, or more word pieces than a chunk.
    """
    asked: dict[str, list[int]] = {}
    for index, text in enumerate(_checked(phrases, word_pieces, limit=max_word_pieces)):
        asked.setdefault(text, []).append(index)

    chunks: list[PromptChunk] = []
    packed: list[PackedPhrase] = []
    piece_ids: list[tuple[int, ...]] = []
    start = 1  # after [CLS]
    for text, indices in asked.items():
        pieces = tuple(word_pieces(text))
        end = start + len(pieces)
        if packed and (end + 2 > max_word_pieces or len(packed) == max_phrases):
            chunks.append(PromptChunk(phrases=tuple(packed), piece_ids=tuple(piece_ids)))
            packed, piece_ids = [], []
            start, end = 1, 1 + len(pieces)
        packed.append(
            PackedPhrase(text=text, asked_indices=tuple(indices), token_span=(start, end))
        )
        piece_ids.append(pieces)
        start = end + _SEPARATOR_PIECES
    if packed:
        chunks.append(PromptChunk(phrases=tuple(packed), piece_ids=tuple(piece_ids)))
    return chunks


def _checked(phrases: Sequence[str], word_pieces: WordPieces, *, limit: int) -> list[str]:
    """Return the normalised phrases. Raises InvalidInput that lists all bad ones."""
    texts: list[str] = []
    problems: list[tuple[int, str]] = []
    for index, phrase in enumerate(phrases):
        try:
            texts.append(checked_phrase(phrase))
            _check_pieces(word_pieces(texts[-1]), phrase, limit=limit)
        except InvalidInput as error:
            problems.append((index, error.message))
    if problems:
        (first, message), more = problems[0], len(problems) - 1
        raise InvalidInput(
            f"phrases[{first}] {message}" + (f" (and {more} more)" if more else ""),
            details={
                "phrase_index": first,
                "phrases": [{"phrase_index": index, "problem": text} for index, text in problems],
            },
        )
    return texts


def _check_pieces(pieces: Sequence[int], phrase: str, *, limit: int) -> None:
    room = limit - _SPECIAL_PIECES - _SEPARATOR_PIECES
    if not pieces:
        raise InvalidInput(f"has nothing that the model's tokenizer reads: {phrase!r}")
    if len(pieces) > room:
        raise InvalidInput(f"has {len(pieces)} word pieces, at most {room} can be queried")


@contextmanager
def encoding_once(backbone: Any) -> Iterator[None]:
    """Within the block, run the module for its first input only, then return that result again.

    Thus a picture is encoded once for all its chunks. Both Grounding-DINO implementations have the
    backbone as one module that returns (features, positions), and call it for every text prompt.
    """
    encode = backbone.forward
    answer: tuple[list[Any], list[Any]] | None = None

    def encode_once(*args: Any, **kwargs: Any) -> tuple[list[Any], list[Any]]:
        nonlocal answer
        if answer is None:
            answer = encode(*args, **kwargs)
        features, positions = answer
        return list(features), list(positions)  # copies: the network appends a level to them

    backbone.forward = encode_once
    try:
        yield
    finally:
        del backbone.forward
