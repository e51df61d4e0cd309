"""Phrases -> as few text prompts as possible, none over what Grounding-DINO reads.

Grounding-DINO takes phrases as one text, "red mug. table.", of at most 256 word pieces, and cuts
what is longer without a word. So word pieces are counted here, with the model's own tokenizer, and
phrases are packed greedily into chunks. A full stop or question mark inside a phrase would split
it, so punctuation becomes a space. Knows neither torch nor transformers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unspoken.errors import InvalidInput
from unspoken.query_texts import checked_phrase

MAX_WORD_PIECES = 250
"""Of a chunk, separators and specials included; the model's own limit is 256."""
MAX_PHRASES = 40
"""Of a chunk: GLIP's number for many-label vocabularies, more crowd each other's scores out."""
_SPECIAL_PIECES = 2  # [CLS] and [SEP]
_SEPARATOR_PIECES = 1  # the full stop behind each phrase

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


def pack_phrases(
    phrases: Sequence[str],
    word_pieces: WordPieces,
    *,
    max_word_pieces: int = MAX_WORD_PIECES,
    max_phrases: int = MAX_PHRASES,
) -> list[Chunk]:
    """Pack phrases in the order asked; equal ones after normalisation stand once.

    Raises InvalidInput with the indices of all phrases that have control characters, nothing to
    look for, or more word pieces than a chunk.
    """
    asked: dict[str, list[int]] = {}
    for index, text in enumerate(_checked(phrases, word_pieces, limit=max_word_pieces)):
        asked.setdefault(text, []).append(index)

    chunks: list[Chunk] = []
    packed: list[PackedPhrase] = []
    piece_ids: list[tuple[int, ...]] = []
    start = 1  # behind [CLS]
    for text, indices in asked.items():
        pieces = tuple(word_pieces(text))
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


def _checked(phrases: Sequence[str], word_pieces: WordPieces, *, limit: int) -> list[str]:
    """Return the normal form of each phrase. Raises InvalidInput that lists all bad ones."""
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
        raise InvalidInput(f"has {len(pieces)} word pieces, at most {room} can be asked")
