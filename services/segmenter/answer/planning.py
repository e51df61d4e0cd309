"""Normalise queries and collect the problems of those that cannot be answered.

A bad query gets an error, and the other queries are answered. A request is refused only if all of
its queries are bad.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from services.segmenter.answer.prompting import prompts_of
from unspoken.errors import InvalidInput
from unspoken.wire.detections import MAX_INDEPENDENT_TEXTS
from unspoken.wire.segment import SegmentQuery
from unspoken.wire.texts import MAX_TEXTS, checked_phrase


class ReadQueries(NamedTuple):
    """Queries with normalised texts, and the problem of each bad query by its index."""

    queries: tuple[SegmentQuery, ...]
    problems: dict[int, str]


def read_queries(queries: Sequence[SegmentQuery], *, size_hw: tuple[int, int]) -> ReadQueries:
    """Normalise texts and check prompts. Raises InvalidInput when no query can be answered."""
    read: list[SegmentQuery] = []
    problems: dict[int, str] = {}
    for place, query in enumerate(queries):
        try:
            normal = _normalised(query, place)
            if normal.is_prompted:
                prompts_of(normal, owner=place, size_hw=size_hw)
            read.append(normal)
        except InvalidInput as error:
            problems[place] = error.message
            read.append(query)
    raise_if_all_invalid(problems, len(read))
    return ReadQueries(tuple(read), problems)


def raise_if_all_invalid(problems: Mapping[int, str], num_queries: int) -> None:
    """Raise InvalidInput when every query has a problem."""
    if problems and len(problems) == num_queries:
        listed = [
            {"where": f"queries[{place}]", "problem": problems[place]}
            for place in sorted(problems)[:20]
        ]
        raise InvalidInput(str(listed[0]["problem"]), details={"problems": listed})


def phrases_of(queries: Sequence[SegmentQuery], *, independent: bool) -> tuple[str, ...]:
    """Return the distinct texts and negatives for the detector. Raises InvalidInput."""
    phrases = tuple(
        dict.fromkeys(text for query in queries for text in (query.text or "", *query.negative))
    )
    if len(phrases) > MAX_TEXTS:
        raise InvalidInput(
            f"the detector takes at most {MAX_TEXTS} distinct texts with the negatives, "
            f"got {len(phrases)}"
        )
    if independent and len(phrases) > MAX_INDEPENDENT_TEXTS:
        raise InvalidInput(
            f"independent takes at most {MAX_INDEPENDENT_TEXTS} distinct texts with the negatives "
            f"a request, got {len(phrases)}: send several requests about the picture's id"
        )
    return phrases


def refused_phrases(error: InvalidInput, phrases: Sequence[str]) -> dict[str, str]:
    """Return the problem of each phrase that a detector refused; empty if the error names none."""
    listed = error.details.get("phrases")
    if not isinstance(listed, Sequence):
        return {}
    return {
        phrases[each["phrase_index"]]: str(each["problem"])
        for each in listed
        if isinstance(each, Mapping) and 0 <= int(each["phrase_index"]) < len(phrases)
    }


def problems_of_refused(
    queries: Sequence[SegmentQuery], refused: Mapping[str, str]
) -> dict[int, str]:
    """Return the problems of text-only queries whose texts a detector refused, by query index."""
    problems: dict[int, str] = {}
    if not refused:
        return problems
    for place, query in enumerate(queries):
        if query.is_prompted:
            continue
        texts = {f"queries.{place}.text": query.text or ""}
        texts |= {f"queries.{place}.negative.{n}": text for n, text in enumerate(query.negative)}
        for where, text in texts.items():
            if text in refused:
                problems.setdefault(place, f"{where} {refused[text]}")
    return problems


def _normalised(query: SegmentQuery, place: int) -> SegmentQuery:
    def normal(text: str, where: str) -> str:
        try:
            return checked_phrase(text)
        except InvalidInput as error:
            raise InvalidInput(f"queries.{place}.{where} {error.message}") from error

    text = None if query.text is None else normal(query.text, "text")
    negative = tuple(normal(each, f"negative.{n}") for n, each in enumerate(query.negative))
    if (text, negative) == (query.text, query.negative):
        return query
    return query.model_copy(update={"text": text, "negative": negative})
