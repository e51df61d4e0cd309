"""Text queries about one picture from the command line; writes an overlay picture and JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from pydantic import ValidationError

from cli.checking.paths import check_file
from unspoken.errors import InvalidInput
from unspoken.imaging.drawing import SERIES, LabelledMask, draw_masks, scale_to_width
from unspoken.imaging.file_formats import FILE_FORMATS
from unspoken.imaging.images import Picture, decode_picture
from unspoken.imaging.masks import decode_rle
from unspoken.ports import Segmenter
from unspoken.problem_words import first_problem
from unspoken.wire.segment import (
    Method,
    RleMask,
    SegmentOutput,
    SegmentQuery,
    SegmentQuestion,
    SegmentReply,
)


class PictureQuestion(NamedTuple):
    """Texts to search for in a picture file."""

    path: Path
    picture: Picture
    question: SegmentQuestion


def read_question(
    path: Path,
    texts: Sequence[str],
    *,
    method: Method = "auto",
    threshold: float | None = None,
    top_k: int = 20,
) -> PictureQuestion:
    """Read a picture file and check the texts. Raises InvalidInput."""
    check_file(path, what="the picture")
    if not all(text.strip() for text in texts):
        raise InvalidInput("a text is empty. Name a thing to search for")
    try:
        picture = decode_picture(path.read_bytes(), formats=FILE_FORMATS)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error.message}. Give another picture") from error
    try:
        question = SegmentQuestion(
            queries=tuple(SegmentQuery(text=text, threshold=threshold) for text in texts),
            method=method,
            output=SegmentOutput(top_k=top_k),
        )
    except ValidationError as error:
        raise InvalidInput(first_problem(error)) from error
    return PictureQuestion(path, picture, question)


def segment_file(ask: PictureQuestion, *, out: Path, segmenter: Segmenter) -> SegmentReply:
    """Segment a picture file; write OUT/NAME-masks.png and .json."""
    reply = segmenter.segment(ask.picture, ask.question)
    out.mkdir(parents=True, exist_ok=True)
    drawn = out / f"{ask.path.stem}-masks.png"
    written = json.dumps(reply.model_dump(mode="json", exclude_none=True), indent=1)
    drawn.with_suffix(".json").write_text(written + "\n", encoding="utf-8")
    draw_reply(ask.picture, reply).save(drawn)
    return reply


def draw_reply(picture: Picture, reply: SegmentReply) -> Image.Image:
    """Return the picture with its masks, one colour per query, and texts with scores."""
    masks = []
    for result in reply.results:
        color = SERIES[result.query_index % len(SERIES)]
        for instance in reversed(result.instances):  # best instance last, on top
            assert isinstance(instance.mask, RleMask), "the request asks for run lengths"
            mask = decode_rle([instance.mask.counts.encode()], instance.mask.size)[0]
            masks.append(LabelledMask(mask, f"{result.text} {instance.score:.2f}", color))
    image = Image.fromarray(picture.pixels)
    return draw_masks(image, masks, scale=scale_to_width(image))


def describe_reply(reply: SegmentReply) -> list[str]:
    """Return one line per query: number of instances found, and the best scores."""
    lines = []
    for result in reply.results:
        if result.error is not None:
            lines.append(f"{result.text}: not answered: {result.error.message}")
            continue
        scores = ", ".join(f"{instance.score:.2f}" for instance in result.instances[:5])
        found = f"{len(result.instances)} found: {scores}" if scores else "none found"
        lines.append(f"{result.text}: {found} (by {result.method or reply.method})")
    return lines
