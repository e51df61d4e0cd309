"""Render replies as JSON; each mask is rendered once, because many queries find the same masks.

The part of an instance that does not depend on the query (box, area, mask ...) is rendered to one
JSON text per mask. Small texts are cached with the bank. A reply concatenates these texts and the
scores, so no Python object is created per instance.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from unspoken.errors import InvalidInput, TooLarge
from unspoken.http.deadline import check_wanted
from unspoken.imaging.mask_polygons import mask_polygons
from unspoken.imaging.masks import mask_png
from unspoken.model.mask_bank import MaskBank
from unspoken.model.text_space import Rivals
from unspoken.timings import Timings
from unspoken.wire.base import ErrorBody, ModelInfo
from unspoken.wire.segment import CacheState, MaskForm, QueryMethod, SegmentOutput, SegmentQuery

KEPT_FORMS = ("none", "rle")
VECTOR_DECIMALS = 8
MAX_REPLY_CHARS = 256 * 1024 * 1024


class WireBank:
    """A mask bank with the cached JSON of its masks."""

    def __init__(self, bank: MaskBank, rivals: Rivals | None = None) -> None:
        self.bank = bank
        self.rivals = rivals
        self._kept: dict[tuple[int, MaskForm], str] = {}

    @property
    def num_bytes(self) -> int:
        """Memory in bytes of the bank, its rivals and its JSON texts.

        The JSON counts as the run lengths plus 512 bytes per mask.
        """
        background = 0 if self.rivals is None else self.rivals.num_bytes
        runs = sum(len(each) for each in self.bank.rle)
        return self.bank.num_bytes + runs + 512 * len(self.bank) + background

    def text_of(self, index: int, output: SegmentOutput) -> str:
        """Return the JSON of a mask without its score and without the braces."""
        text = self._kept.get((index, output.mask))
        if text is None:
            text = self._write(index, output.mask)
            if output.mask in KEPT_FORMS:
                self._kept[index, output.mask] = text
        if output.embedding:
            vector = self.bank.mask_embedding[index].astype(np.float64)
            text += f', "embedding": {json.dumps(np.round(vector, VECTOR_DECIMALS).tolist())}'
        return text

    def _write(self, index: int, form: MaskForm) -> str:
        x0, y0, x1, y1 = self.bank.boxes_xyxy[index].tolist()
        about = {
            "box": {"x0": x0, "y0": y0, "x1": x1, "y1": y1},
            "predicted_iou": round(min(max(float(self.bank.predicted_iou[index]), 0.0), 1.0), 4),
            "similarity": round(float(self.bank.similarity[index]), 4),
            "area": int(self.bank.areas[index]),
            "mask": self._mask(index, form),
        }
        return json.dumps(about)[1:-1]

    def _mask(self, index: int, form: MaskForm) -> dict[str, object] | None:
        if form == "none":
            return None
        drawn: dict[str, object] = {"format": form, "size": list(self.bank.size_hw)}
        if form == "rle":
            return {**drawn, "counts": self.bank.rle[index].decode("ascii")}
        mask = self.bank.masks([index])[0]
        if form == "polygon":
            return {**drawn, "polygons": mask_polygons(mask)}
        return {**drawn, "data": mask_png(mask)}


class QueryMasks(NamedTuple):
    """The masks that one query found, in the order of the reply."""

    masks: WireBank
    indices: list[int]
    scores: list[float]
    method: QueryMethod
    threshold: float
    prompts: Sequence[tuple[int, int]] = ()
    """Prompt index and mask index of each mask; empty for a text-only query."""
    num_empty: int = 0
    """Number of the detector's boxes whose mask is empty."""


class SegmentContent(NamedTuple):
    """The content of a reply before it is rendered."""

    image_id: str
    size_hw: tuple[int, int]
    model: ModelInfo
    method: QueryMethod
    queries: Sequence[SegmentQuery]
    """The queries as they were sent, not normalised."""
    output: SegmentOutput
    found: Mapping[int, QueryMasks]
    problems: Mapping[int, str]
    """Problem of each query that was not answered, by query index; all others are in `found`."""
    stages_ms: dict[str, float]

    def to_json(self, *, cache: CacheState, timings: Timings) -> bytes:
        """Return a SegmentReply in JSON. Raises TooLarge, DeadlineExceeded."""
        timings.add(self.stages_ms)
        with timings.measure("render"):
            texts = _Texts(self.output)
            results = ", ".join(
                _refusal(index, query, self.problems[index])
                if index in self.problems
                else _result(index, query, self.found[index], texts)
                for index, query in enumerate(self.queries)
            )
        height, width = self.size_hw
        head = json.dumps(
            {
                "image": {"id": self.image_id, "width": width, "height": height},
                "model": self.model.model_dump(),
                "method": self.method,
                **({"embedding_space": "mask"} if self.output.embedding else {}),
                "cache": cache.model_dump(),
                "timings_ms": timings.as_ms(),
            }
        )
        return f'{head[:-1]}, "results": [{results}]}}'.encode()


class _Texts:
    """JSON texts of the masks of one reply, each rendered once; their total size is bounded."""

    def __init__(self, output: SegmentOutput) -> None:
        self._output = output
        self._texts: dict[tuple[int, int], str] = {}
        self._num_chars = 0

    def text_of(self, masks: WireBank, index: int) -> str:
        """Return a mask's JSON. Raises TooLarge, and DeadlineExceeded if no caller waits."""
        key = (id(masks), index)
        text = self._texts.get(key)
        if text is None:
            check_wanted()
            text = self._texts[key] = masks.text_of(index, self._output)
        self._num_chars += len(text)
        if self._num_chars > MAX_REPLY_CHARS:
            raise TooLarge(
                f"the reply is over {MAX_REPLY_CHARS} bytes: send fewer queries, lower "
                "output.top_k, or set output.mask to 'rle'"
            )
        return text


def _result(query_index: int, query: SegmentQuery, found: QueryMasks, texts: _Texts) -> str:
    head = (
        f'{{"query_index": {query_index}, "text": {json.dumps(query.text)}, '
        f'"method": "{found.method}", "threshold": {json.dumps(found.threshold)}, '
        f'"num_empty": {found.num_empty}'
    )
    instances = []
    prompts: Sequence[tuple[int, int] | None] = found.prompts or [None] * len(found.indices)
    for index, score, prompt in zip(found.indices, found.scores, prompts, strict=True):
        mask = texts.text_of(found.masks, index)
        asked = ""
        if prompt is not None:
            asked = f'"prompt_index": {prompt[0]}, "mask_index": {prompt[1]}, '
        instances.append(f'{{"score": {score:.4f}, {asked}{mask}}}')
    return f'{head}, "instances": [{", ".join(instances)}]}}'


def _refusal(query_index: int, query: SegmentQuery, problem: str) -> str:
    """Return the result of a query that was not answered."""
    error = ErrorBody(error=InvalidInput.code, message=problem)
    return json.dumps(
        {
            "query_index": query_index,
            "text": query.text,
            "error": error.model_dump(),
            "instances": [],
        }
    )
