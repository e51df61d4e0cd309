"""Choose the method of a request, check its queries, and ask the detector for its texts.

A bad query gets an error, and the other queries are answered. A request is refused only if all of
its queries are bad.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Literal, NamedTuple

from services.segmenter.answer.prompts import prompts_of
from unspoken.errors import Conflict, InvalidInput
from unspoken.imaging.images import read_picture
from unspoken.ports import Detector
from unspoken.wire.detections import MAX_INDEPENDENT_TEXTS, DetectionResult
from unspoken.wire.segment import Method, QueryMethod, SegmentQuery, SegmentQuestion
from unspoken.wire.texts import MAX_TEXTS, checked_phrase


@dataclass(frozen=True, kw_only=True)
class QueryPlan:
    """Checked queries of a request, and the method that answers its texts."""

    question: SegmentQuestion
    method: QueryMethod
    queries: tuple[SegmentQuery, ...]
    """The question's queries with normalised texts."""
    problems: Mapping[int, str] = field(default_factory=dict)
    """Problem of each query that cannot be answered, by query index."""
    phrases: tuple[str, ...] = ()
    """Phrases for the detector."""


class Detected(NamedTuple):
    """Reply of the detector, with its default threshold."""

    result: DetectionResult
    box_threshold: float
    refused: Mapping[str, str] = MappingProxyType({})
    """Problem of each phrase that the detector refused."""


@dataclass(frozen=True, kw_only=True)
class QueryPlanner:
    """Plans requests from the capabilities of the weights and the settings. Any thread."""

    model_name: str
    is_trained: bool
    """True if the semantic head is trained, so that texts can score masks."""
    detector: Detector | None = None
    auto_method: Literal["bank", "detector"] | None = None
    """Method that `auto` stands for; None: `detector`, or `bank` without a detector."""

    def method_of(self, question: SegmentQuestion) -> QueryMethod:
        """Return the method that answers a question, before its image is read.

        Raises Conflict for a method that this service does not have.
        """
        # Build an explicitly requested bank even without queries, because it serves later ones.
        has_texts = any(not query.is_prompted for query in question.queries)
        if has_texts or question.method == "bank":
            return self._resolve(question.method)
        return "prompts"

    def plan(self, question: SegmentQuestion, *, size_hw: tuple[int, int]) -> QueryPlan:
        """Return the plan of a question about an image of this size.

        Raises Conflict, and InvalidInput when no query can be answered.
        """
        queries, problems = _check_queries(question.queries, size_hw=size_hw)
        for index, query in enumerate(queries):
            if query.is_prompted and query.text is not None:
                self.check_trained(f"queries.{index}: a text scores masks")
        method = self.method_of(question)
        phrases: tuple[str, ...] = ()
        if method == "detector":
            good = [
                query
                for index, query in enumerate(queries)
                if index not in problems and not query.is_prompted
            ]
            phrases = _phrases_of(good, independent=question.independent)
        return QueryPlan(
            question=question, method=method, queries=queries, problems=problems, phrases=phrases
        )

    def ask_detector(self, plan: QueryPlan, encoded: bytes) -> Detected:
        """Ask the detector for the plan's phrases in an image file.

        Blocks. Never call it on the inference thread, which a detector of this process needs.
        """
        assert self.detector is not None, "a plan without a detector has no phrases"
        default = self.detector.box_threshold
        thresholds = [
            default if query.threshold is None else query.threshold
            for index, query in enumerate(plan.queries)
            if not query.is_prompted and index not in plan.problems
        ]
        ask = partial(
            self.detector.detect,
            read_picture(encoded),
            box_threshold=min(thresholds),
            independent=plan.question.independent,
        )
        try:
            return Detected(ask(plan.phrases), default)
        except InvalidInput as error:
            refused = _refused_phrases(error, plan.phrases)
            if not refused:
                raise
        problems = {**plan.problems, **problems_of_refused(plan.queries, refused)}
        _raise_if_all_invalid(problems, len(plan.queries))
        left = [phrase for phrase in plan.phrases if phrase not in refused]
        return Detected(ask(left), default, refused)

    def check_trained(self, reason: str) -> None:
        """Raise Conflict, with the reason why it matters, if the semantic head is not trained."""
        if not self.is_trained:
            raise Conflict(
                f"{reason}, but the semantic head of {self.model_name} is not trained",
                details={"semantic_trained": False, "model": self.model_name},
            )

    def _resolve(self, method: Method) -> QueryMethod:
        """Return the method for text-only queries. Raises Conflict.

        `auto` depends only on the weights and the settings, so the same request always gets the
        same method.
        """
        if method == "auto":
            method = self.auto_method or ("detector" if self.detector is not None else "bank")
            if method == "bank" and self.detector is None:
                self.check_trained("there is no detector (SEGMENTER_DETECTOR_URL), a text")
        if method == "bank":
            self.check_trained("method 'bank' scores texts")
            return "bank"
        if self.detector is None:
            raise Conflict(
                "method 'detector' is not possible: this service has no detector "
                "(SEGMENTER_DETECTOR_URL)",
                details={"setting": "SEGMENTER_DETECTOR_URL"},
            )
        return "detector"


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


def _check_queries(
    queries: Sequence[SegmentQuery], *, size_hw: tuple[int, int]
) -> tuple[tuple[SegmentQuery, ...], dict[int, str]]:
    """Return queries with normalised texts, and the problem of each bad query by its index.

    Raises InvalidInput when no query can be answered.
    """
    checked: list[SegmentQuery] = []
    problems: dict[int, str] = {}
    for place, query in enumerate(queries):
        try:
            normal = _normalised(query, place)
            if normal.is_prompted:
                prompts_of(normal, owner=place, size_hw=size_hw)
            checked.append(normal)
        except InvalidInput as error:
            problems[place] = error.message
            checked.append(query)
    _raise_if_all_invalid(problems, len(checked))
    return tuple(checked), problems


def _raise_if_all_invalid(problems: Mapping[int, str], num_queries: int) -> None:
    """Raise InvalidInput when every query has a problem."""
    if problems and len(problems) == num_queries:
        listed = [
            {"where": f"queries[{place}]", "problem": problems[place]}
            for place in sorted(problems)[:20]
        ]
        raise InvalidInput(str(listed[0]["problem"]), details={"problems": listed})


def _phrases_of(queries: Sequence[SegmentQuery], *, independent: bool) -> tuple[str, ...]:
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


def _refused_phrases(error: InvalidInput, phrases: Sequence[str]) -> dict[str, str]:
    """Return the problem of each phrase that a detector refused; empty if the error lists none."""
    listed = error.details.get("phrases")
    if not isinstance(listed, Sequence):
        return {}
    return {
        phrases[each["phrase_index"]]: str(each["problem"])
        for each in listed
        if isinstance(each, Mapping) and 0 <= int(each["phrase_index"]) < len(phrases)
    }


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
