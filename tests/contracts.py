"""Contracts that every implementation of a port must fulfil: engines, clients and fakes."""

import io

import numpy as np
import pytest
from PIL import Image

from unspoken.errors import InvalidInput, NotAnImage, NotFound
from unspoken.imaging.images import Picture, decode_picture, read_picture
from unspoken.imaging.masks import decode_rle
from unspoken.ports import CropRanker, Detector, Prompter, Segmenter, TextEncoder
from unspoken.wire.crops import MAX_CROPS, Crop
from unspoken.wire.segment import PromptBox, RleMask, SegmentQuestion


def picture_bytes(*, size: tuple[int, int] = (96, 64)) -> bytes:
    """Return a small PNG of noise; width and height in pixels."""
    noise = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="PNG")
    return buffer.getvalue()


def damaged_picture() -> Picture:
    """Return a picture whose header is whole and whose pixels are truncated."""
    return read_picture(picture_bytes()[:2000])


def check_prompter(prompter: Prompter, *, template: str) -> None:
    """Check: one proposal per caption, in order, independent of the other captions."""
    captions = ["a red car in front of a house", "a plant on a table", "a dog runs"]
    together = prompter.propose(captions)
    assert len(together) == 3
    assert [prompter.propose([caption])[0].phrases for caption in captions] == [
        proposal.phrases for proposal in together
    ]
    for proposal in together:
        texts = [phrase.text for phrase in proposal.phrases]
        assert texts and len(set(texts)) == len(texts)
        assert all(phrase.sources for phrase in proposal.phrases)
    assert any(phrase.named and phrase.text == "car" for phrase in together[0].phrases)
    assert prompter.propose(captions[:1], templates=[template])[0].phrases
    with pytest.raises(InvalidInput):
        prompter.propose(captions, templates=["no such template"])
    assert prompter.model.kind == "llm"


def check_detector(detector: Detector) -> None:
    """Check: boxes are inside the picture, best first, each for a requested phrase."""
    picture = decode_picture(picture_bytes())
    assert detector.detect(picture, []).detections == ()
    phrases = ["car", "wheel", "car", "a mug . of coffee?"]
    result = detector.detect(picture, phrases, box_threshold=0.0)
    assert result.detections and result.num_chunks >= 1
    scores = [detection.score for detection in result.detections]
    assert scores == sorted(scores, reverse=True)
    for detection in result.detections:
        assert detection.phrase == phrases[detection.phrase_index]
        assert detection.box.x0 <= detection.box.x1 <= 96 * 2
        assert detection.box.y0 <= detection.box.y1 <= 64 * 2
    assert all(
        detection.score >= 0.5
        for detection in detector.detect(picture, phrases, box_threshold=0.5).detections
    )
    for bad in ("\x00", " . "):
        with pytest.raises(InvalidInput) as caught:
            detector.detect(picture, ["car", bad])
        (problem,) = caught.value.details["phrases"]
        assert problem["phrase_index"] == 1 and problem["problem"]
    with pytest.raises(NotAnImage, match="damaged"):
        detector.detect(damaged_picture(), ["car"])
    alone = detector.detect(picture, ["wheel"], box_threshold=0.0)
    apart = detector.detect(picture, ["car", "wheel"], box_threshold=0.0, independent=True)
    assert apart.num_chunks == 2
    scores = [found.score for found in apart.detections if found.phrase == "wheel"]
    assert scores == pytest.approx([found.score for found in alone.detections], abs=1e-4)
    assert 0 <= detector.box_threshold <= 1
    assert detector.model.kind == "detector"


def check_text_encoder(encoder: TextEncoder) -> None:
    """Check: unit vectors of 768 dimensions, the same for the same text."""
    vectors = encoder.encode_texts(["car", "wheel", "car"])
    assert vectors.shape == (3, 768) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    assert np.allclose(vectors[0], vectors[2], atol=1e-5)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-2)
    assert encoder.model.kind == "text_encoder"


def check_crop_ranker(ranker: CropRanker) -> None:
    """Check: one rank per crop, in order, below the number of labels, deterministic."""
    picture = decode_picture(picture_bytes())
    labels = ["car", "wheel", "dog"]
    box = PromptBox(x0=8, y0=8, x1=60, y1=50)
    crops = [Crop(box=box, label_index=index % 3) for index in range(MAX_CROPS + 6)]
    ranks = ranker.rank_crops(picture, crops, labels)
    assert len(ranks) == len(crops) and set(ranks) <= {1, 2, 3}
    assert ranks == [ranks[index % 3] for index in range(len(crops))]
    assert ranker.rank_crops(picture, [], labels) == []
    outside = PromptBox(x0=900, y0=900, x1=950, y1=950)
    with pytest.raises(InvalidInput, match="outside"):
        ranker.rank_crops(picture, [Crop(box=outside, label_index=0)], labels)
    with pytest.raises(NotAnImage, match="damaged"):
        ranker.rank_crops(damaged_picture(), crops[:1], labels)
    assert ranker.model.kind == "text_encoder"


def check_segmenter(segmenter: Segmenter) -> None:
    """Check: one result per query, in order, by picture, id and name; masks have picture size."""
    picture = decode_picture(picture_bytes())
    with pytest.raises(NotFound, match="send it again"):
        segmenter.read_image("never sent")
    added = segmenter.add_image(picture, name="mine")
    assert (added.width, added.height, added.sha256) == (96, 64, picture.sha256)
    assert segmenter.read_image(added.id).id == segmenter.read_image("mine").id == added.id
    box = {"x0": 8, "y0": 8, "x1": 60, "y1": 50}
    question = SegmentQuestion.model_validate(
        {
            "queries": [
                {"boxes": [box]},
                {"boxes": [box], "threshold": 1.0},
                {"points": [{"x": 9, "y": 9}]},
            ]
        }
    )
    replies = [segmenter.segment(image, question) for image in (picture, added.id, "mine")]
    assert replies[0].results == replies[1].results == replies[2].results
    assert [result.query_index for result in replies[0].results] == [0, 1, 2]
    assert replies[1].cache.hit and replies[0].image.id == added.id
    for result in replies[0].results:
        scores = [instance.score for instance in result.instances]
        assert scores == sorted(scores, reverse=True)
        for instance in result.instances:
            assert isinstance(instance.mask, RleMask) and instance.mask.size == (64, 96)
            mask = decode_rle([instance.mask.counts.encode()], (64, 96))[0]
            assert mask.sum() == instance.area > 0
    assert segmenter.segment(picture, SegmentQuestion(queries=())).results == []
    segmenter.delete_image("mine")
    for gone in ("mine", added.id):
        with pytest.raises(NotFound):
            segmenter.read_image(gone)
        with pytest.raises(NotFound):
            segmenter.delete_image(gone)
    assert segmenter.add_image(picture).id == added.id
    with pytest.raises(NotAnImage, match="damaged"):
        segmenter.add_image(damaged_picture())
    with pytest.raises(NotAnImage, match="damaged"):
        segmenter.segment(damaged_picture(), question)
    outside = {"queries": [{"boxes": [{"x0": 900, "y0": 900, "x1": 950, "y1": 950}]}]}
    with pytest.raises(InvalidInput, match="outside"):
        segmenter.segment(picture, SegmentQuestion.model_validate(outside))
    assert segmenter.model.kind == "segmenter"
