"""The engine: the contract, the three ways to answer, and which is chosen."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from services.segmenter.held_picture import OVERHEAD_BYTES
from tests.contracts import check_segmenter, picture_bytes
from tests.fakes import FakeTextEncoder
from tests.services.segmenter.tiny import question, tiny_engine
from unspoken.errors import Conflict, InvalidInput
from unspoken.images import Picture, decode_picture
from unspoken.masks import decode_rle
from unspoken.schemas import Box, Detection, DetectionResult, ModelInfo
from unspoken.segment_schemas import PngMask, PolygonMask, RleMask

TEXTS = ("car", "wheel", "house")
ANY = {"threshold": 0.0}


class StubDetector:
    """Answers what it is told: phrase -> (box, score)."""

    model = ModelInfo(name="stub", kind="detector", revision="0")
    box_threshold = 0.3

    def __init__(self, **boxes: tuple[tuple[float, float, float, float], float]) -> None:
        self.boxes = boxes
        self.asked: list[tuple[str, ...]] = []

    def detect(self, picture, phrases, *, box_threshold=None) -> DetectionResult:
        assert isinstance(picture, Picture) and picture.pixels.size
        self.asked.append(tuple(phrases))
        lowest = self.box_threshold if box_threshold is None else box_threshold
        found = []
        for index, phrase in enumerate(phrases):
            if phrase in self.boxes and self.boxes[phrase][1] >= lowest:
                (x0, y0, x1, y1), score = self.boxes[phrase]
                box = Box(x0=x0, y0=y0, x1=x1, y1=y1)
                found.append(Detection(phrase_index=index, phrase=phrase, box=box, score=score))
        return DetectionResult(detections=tuple(found), num_chunks=1)


@pytest.fixture(scope="module")
def picture() -> Picture:
    return decode_picture(picture_bytes())


def test_the_engine_holds_the_contract():
    check_segmenter(tiny_engine())


def test_a_picture_is_encoded_once_for_all_its_questions(picture):
    engine = tiny_engine()
    asked = question({"text": "car"}, method="bank")
    first, again = (engine.segment(picture, asked) for _ in range(2))
    assert engine.num_embedded == 1
    assert not first.cache.hit and again.cache.hit and again.cache.tier == "memory"
    assert {"encode", "bank", "score", "render"} <= set(first.timings_ms)
    assert not {"encode", "bank"} & set(again.timings_ms)


@pytest.mark.parametrize("score", ["softmax", "cosine"])
def test_a_query_is_answered_the_same_alone_and_among_others(picture, score):
    engine = tiny_engine(score=score)
    queries = [{"text": text, **ANY} for text in TEXTS]
    queries[1]["negative"] = ["car", "door"]
    together = engine.segment(picture, question(*queries, method="bank"))
    for index, query in enumerate(queries):
        alone = engine.segment(picture, question(query, method="bank"))
        assert alone.results[0].instances == together.results[index].instances
        assert alone.results[0].text == query["text"]


def test_the_bank_answers_what_text_space_says_of_its_masks_weighed_by_their_quality(picture):
    engine = tiny_engine(score="cosine")
    asked = question(
        {"text": "car", **ANY}, method="bank", output={"embedding": True, "mask": "none"}
    )
    (result,) = engine.segment(picture, asked).results
    (vector,) = FakeTextEncoder().encode_texts(["car"])
    assert len(result.instances) > 5
    for instance in result.instances:
        assert instance.mask is None and instance.embedding is not None
        cosine = float(np.dot(instance.embedding, vector))
        weighed = max(0.0, cosine) * instance.predicted_iou
        assert instance.score == pytest.approx(weighed, abs=1e-4)


def test_thresholds_top_k_and_nms_shorten_an_answer(picture):
    engine = tiny_engine(score="cosine")  # masks of this one are like "dog", by chance
    every = engine.segment(picture, question({"text": "dog", **ANY}, method="bank"))
    instances = every.results[0].instances
    middle = instances[len(instances) // 2].score
    fewer = engine.segment(picture, question({"text": "dog", "threshold": middle}, method="bank"))
    assert 0 < len(fewer.results[0].instances) < len(instances)
    assert all(each.score >= middle - 1e-4 for each in fewer.results[0].instances)
    two = question({"text": "dog", **ANY}, method="bank", output={"top_k": 2})
    assert engine.segment(picture, two).results[0].instances == instances[:2]
    apart = question({"text": "dog", **ANY}, method="bank", nms_iou=0.05)
    assert len(engine.segment(picture, apart).results[0].instances) < len(instances)
    none = engine.segment(picture, question({"text": "dog", "threshold": 1.0}, method="bank"))
    assert none.results[0].instances == []


def test_every_form_of_a_mask_is_the_same_mask(picture):
    engine = tiny_engine()
    box = {"boxes": [{"x0": 10, "y0": 10, "x1": 50, "y1": 40}]}
    masks = {}
    for form in ("rle", "polygon", "png", "none"):
        reply = engine.segment(picture, question(box, output={"mask": form}))
        masks[form] = reply.results[0].instances[0].mask
    assert masks["none"] is None
    rle, polygon, png = masks["rle"], masks["polygon"], masks["png"]
    assert (
        isinstance(rle, RleMask) and isinstance(polygon, PolygonMask) and isinstance(png, PngMask)
    )
    expected = decode_rle([rle.counts.encode()], rle.size)[0]
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(png.data))))
    assert np.array_equal(drawn, expected)
    assert polygon.size == rle.size == png.size == (64, 96)
    xs = polygon.polygons[0][0][::2]
    assert (min(xs), max(xs)) == (np.nonzero(expected)[1].min(), np.nonzero(expected)[1].max() + 1)


def test_prompts_of_all_kinds_in_one_question_come_back_in_order(picture):
    engine = tiny_engine()
    small, large = {"x0": 5, "y0": 5, "x1": 25, "y1": 25}, {"x0": 30, "y0": 5, "x1": 90, "y1": 60}
    queries = [
        {"boxes": [small]},
        {"points": [{"x": 40, "y": 30}]},
        {"boxes": [large, small]},
        {"points": [{"x": 40, "y": 30}, {"x": 80, "y": 30, "label": 0}]},
        {"boxes": [small], "points": [{"x": 12, "y": 12}]},
        {"text": "car", "boxes": [large]},
    ]
    reply = engine.segment(picture, question(*queries))
    assert reply.method == "prompts"
    assert [len(result.instances) for result in reply.results] == [1, 3, 2, 1, 1, 1]
    found = reply.results[0].instances[0].box
    assert found.x0 == pytest.approx(5, abs=3) and found.x1 == pytest.approx(25, abs=3)
    alone = engine.segment(picture, question(queries[2])).results[0]
    assert alone.instances == reply.results[2].instances
    assert reply.results[5].instances[0].score < 0.5  # the text's share, not the predicted IoU
    for result in reply.results[:5]:
        assert all(each.score == each.predicted_iou for each in result.instances)


@pytest.mark.parametrize(
    "query",
    [
        pytest.param({"boxes": [{"x0": 200, "y0": 5, "x1": 300, "y1": 9}]}, id="box"),
        pytest.param({"boxes": [{"x0": -9, "y0": -9, "x1": -1, "y1": -1}]}, id="negative"),
        pytest.param({"points": [{"x": 97, "y": 5}]}, id="point"),
    ],
)
def test_prompts_outside_of_the_picture_are_refused_by_name(picture, query):
    with pytest.raises(InvalidInput, match=r"queries\.1.*outside"):
        tiny_engine().segment(picture, question({"text": "car"}, query))


def test_a_box_that_sticks_out_is_cut(picture):
    engine = tiny_engine()
    out = {"boxes": [{"x0": -500, "y0": -5, "x1": 48, "y1": 5000}]}
    cut = {"boxes": [{"x0": 0, "y0": 0, "x1": 48, "y1": 64}]}
    reply = engine.segment(picture, question(out, cut))
    assert reply.results[0].instances == reply.results[1].instances


# ---- which way -------------------------------------------------------------------------------


def test_an_untrained_head_never_scores_a_text(picture):
    engine = tiny_engine(trained=False, detector=StubDetector())
    for asked in (
        question({"text": "car"}, method="bank"),
        question({"text": "car", "boxes": [{"x0": 1, "y0": 1, "x1": 9, "y1": 9}]}),
    ):
        with pytest.raises(Conflict, match="not trained") as caught:
            engine.segment(picture, asked)
        assert caught.value.details["semantic_trained"] is False
    assert engine.segment(picture, question({"text": "car"})).method == "detector"
    with pytest.raises(Conflict, match="not trained"):
        tiny_engine(trained=False).segment(picture, question({"text": "car"}))


def test_without_a_detector_its_method_is_an_error_and_auto_builds_the_bank(picture):
    engine = tiny_engine()
    with pytest.raises(Conflict, match="SEGMENTER_DETECTOR_URL"):
        engine.segment(picture, question({"text": "car"}, method="detector"))
    assert engine.segment(picture, question({"text": "car"})).method == "bank"


def test_auto_answers_the_same_whatever_was_asked_before(picture):
    detector = StubDetector(car=((10, 10, 50, 40), 0.8))
    engine = tiny_engine(detector=detector)
    asked = question({"text": "car"}, {"text": "moon"})
    first = engine.segment(picture, asked)
    assert first.method == "detector" and detector.asked == [("car", "moon")]
    assert [len(result.instances) for result in first.results] == [1, 0]
    assert first.results[0].instances[0].score == 0.8
    by_bank = engine.segment(picture, question({"text": "car"}, method="bank"))
    assert by_bank.method == "bank" and engine.find(first.image.id).bank_ready
    again = engine.segment(picture, asked)
    assert again.method == "detector" and again.results == first.results


@pytest.mark.parametrize("method", ["bank", "detector"])
def test_a_setting_chooses_what_auto_means(picture, method):
    engine = tiny_engine(detector=StubDetector(), auto_method=method)
    assert engine.segment(picture, question({"text": "car"})).method == method


def test_thresholds_and_negatives_hold_for_the_detectors_boxes_too(picture):
    detector = StubDetector(
        car=((10, 10, 50, 40), 0.8), truck=((11, 10, 50, 41), 0.9), wheel=((60, 10, 70, 20), 0.2)
    )
    engine = tiny_engine(detector=detector)

    def found(*queries: dict[str, object]) -> list[int]:
        reply = engine.segment(picture, question(*queries, method="detector"))
        return [len(result.instances) for result in reply.results]

    assert found({"text": "car"}, {"text": "car", "negative": ["truck"]}) == [1, 0]
    assert found({"text": "truck", "negative": ["car"]}) == [1]
    # The lowest threshold goes to the detector; the others are held here.
    assert found({"text": "wheel"}, {"text": "wheel", "threshold": 0.1}) == [0, 1]
    assert found({"text": "car", "threshold": 0.81}, {"text": "wheel", "threshold": 0.1}) == [0, 1]
    assert found({"text": "car", "threshold": 0.81}) == [0]


def test_boxes_of_the_detector_that_leave_the_picture_are_cut_or_dropped(picture):
    detector = StubDetector(car=((-10, -10, 500, 500), 0.8), wheel=((200, 200, 300, 300), 0.8))
    engine = tiny_engine(detector=detector)
    reply = engine.segment(picture, question({"text": "car"}, {"text": "wheel"}, method="detector"))
    assert [len(result.instances) for result in reply.results] == [1, 0]
    assert reply.results[0].instances[0].box.x1 <= 96


def test_a_bank_grows_the_memory_that_a_picture_is_counted_with(picture):
    engine = tiny_engine()
    held = engine.find(engine.add_image(picture).id)
    before = held.num_bytes
    data_bytes = held.embedding.nbytes + len(picture.encoded)
    assert before == OVERHEAD_BYTES + data_bytes == engine.cache.total_bytes
    engine.segment(picture, question({"text": "car"}, method="bank"))
    assert engine.cache.total_bytes == held.num_bytes > before


def test_other_weights_or_another_precision_give_another_id(picture):
    one, other = tiny_engine(), tiny_engine(encoder_dtype=torch.bfloat16)
    assert one.image_id(picture.sha256) != other.image_id(picture.sha256)
    assert one.image_id(picture.sha256) == tiny_engine().image_id(picture.sha256)
    assert other.segment(picture, question({"text": "car"}, method="bank")).results


def test_half_precision_in_the_cache_changes_no_mask_to_speak_of(picture):
    engine = tiny_engine()
    held = engine.find(engine.add_image(picture).id)
    asked = question({"boxes": [{"x0": 10, "y0": 10, "x1": 50, "y1": 40}]})
    before = engine.segment(picture, asked).results[0].instances[0]
    held.embedding = held.embedding.float()
    after = engine.segment(picture, asked).results[0].instances[0]
    assert abs(before.area - after.area) <= 2
