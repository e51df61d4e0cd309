"""The engine: the contract, the three query methods, and the choice between them."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from services.segmenter.cache.cached_image import OVERHEAD_BYTES
from services.segmenter.local_segmenter import LocalSegmenter
from tests.contracts import check_segmenter, picture_bytes
from tests.fakes import FakeDetector, FakeTextEncoder
from tests.services.segmenter.tiny import DiscSam, add_image, question, segment, tiny_engine
from unspoken.errors import Conflict, InvalidInput
from unspoken.imaging.file_formats import FILE_FORMATS
from unspoken.imaging.images import Picture, decode_picture
from unspoken.imaging.masks import decode_rle
from unspoken.model.sam.checkpoint import LoadedSam, SemanticInfo
from unspoken.model.sam.config import SemanticSamConfig, sam_config
from unspoken.wire.base import ModelInfo
from unspoken.wire.detections import Detection, DetectionResult
from unspoken.wire.pictures import Box
from unspoken.wire.segment import PngMask, PolygonMask, RleMask

TEXTS = ("car", "wheel", "house")
ANY = {"threshold": 0.0}


class StubDetector:
    """Gives predefined answers: phrase -> (box, score)."""

    model = ModelInfo(name="stub", kind="detector", revision="0")
    box_threshold = 0.3

    def __init__(self, **boxes: tuple[tuple[float, float, float, float], float]) -> None:
        self.boxes = boxes
        self.asked: list[tuple[str, ...]] = []

    def detect(self, picture, phrases, *, box_threshold=None, independent=False) -> DetectionResult:
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
    with LocalSegmenter(tiny_engine()) as segmenter:
        check_segmenter(segmenter)


def test_a_picture_is_encoded_once_for_all_its_questions(picture):
    engine = tiny_engine()
    asked = question({"text": "car"}, method="bank")
    first, again = (segment(engine, picture, asked) for _ in range(2))
    assert engine.num_embedded == 1
    assert not first.cache.hit and again.cache.hit and again.cache.tier == "memory"
    assert {"encode", "bank", "score", "render"} <= set(first.timings_ms)
    assert not {"encode", "bank"} & set(again.timings_ms)


@pytest.mark.parametrize("score", ["softmax", "cosine"])
def test_a_query_is_answered_the_same_alone_and_among_others(picture, score):
    engine = tiny_engine(score=score)
    queries = [{"text": text, **ANY} for text in TEXTS]
    queries[1]["negative"] = ["car", "door"]
    together = segment(engine, picture, question(*queries, method="bank"))
    for index, query in enumerate(queries):
        alone = segment(engine, picture, question(query, method="bank"))
        assert alone.results[0].instances == together.results[index].instances
        assert alone.results[0].text == query["text"]


def test_the_bank_answers_what_text_space_says_of_its_masks_weighed_by_their_quality(picture):
    engine = tiny_engine(score="cosine")
    asked = question(
        {"text": "car", **ANY}, method="bank", output={"embedding": True, "mask": "none"}
    )
    (result,) = segment(engine, picture, asked).results
    (vector,) = FakeTextEncoder().encode_texts(["car"])
    assert len(result.instances) > 5
    for instance in result.instances:
        assert instance.mask is None and instance.embedding is not None
        cosine = float(np.dot(instance.embedding, vector))
        weighed = max(0.0, cosine) * instance.predicted_iou
        assert instance.score == pytest.approx(weighed, abs=1e-4)


def test_thresholds_top_k_and_nms_shorten_an_answer(picture):
    engine = tiny_engine(score="cosine")  # masks of this one are like "dog", by chance
    every = segment(engine, picture, question({"text": "dog", **ANY}, method="bank"))
    instances = every.results[0].instances
    middle = instances[len(instances) // 2].score
    fewer = segment(engine, picture, question({"text": "dog", "threshold": middle}, method="bank"))
    assert 0 < len(fewer.results[0].instances) < len(instances)
    assert all(each.score >= middle - 1e-4 for each in fewer.results[0].instances)
    two = question({"text": "dog", **ANY}, method="bank", output={"top_k": 2})
    assert segment(engine, picture, two).results[0].instances == instances[:2]
    apart = question({"text": "dog", **ANY}, method="bank", nms_iou=0.05)
    assert len(segment(engine, picture, apart).results[0].instances) < len(instances)
    none = segment(engine, picture, question({"text": "dog", "threshold": 1.0}, method="bank"))
    assert none.results[0].instances == []


def test_every_form_of_a_mask_is_the_same_mask(picture):
    engine = tiny_engine()
    box = {"boxes": [{"x0": 10, "y0": 10, "x1": 50, "y1": 40}]}
    masks = {}
    for form in ("rle", "polygon", "png", "none"):
        reply = segment(engine, picture, question(box, output={"mask": form}))
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
    reply = segment(engine, picture, question(*queries))
    assert reply.method == "prompts"
    assert [len(result.instances) for result in reply.results] == [1, 3, 2, 1, 1, 1]
    found = reply.results[0].instances[0].box
    assert found.x0 == pytest.approx(5, abs=3) and found.x1 == pytest.approx(25, abs=3)
    alone = segment(engine, picture, question(queries[2])).results[0]
    assert alone.instances == reply.results[2].instances
    order = [(each.prompt_index, each.mask_index) for each in reply.results[2].instances]
    assert order == [(0, 0), (1, 0)]
    assert reply.results[2].instances[1].box == found  # the small box, asked second
    assert sorted(each.mask_index for each in reply.results[1].instances) == [0, 1, 2]
    assert {each.prompt_index for each in reply.results[1].instances} == {0}
    assert reply.results[5].instances[0].score < 0.5  # the text's share, not the predicted IoU
    for result in reply.results[:5]:
        assert all(each.score == each.predicted_iou for each in result.instances)


class HalfBlindSam(DiscSam):
    """Returns empty masks for prompts in the right half of the picture."""

    def decode(self, image_embeddings, prompts, *, multimask_output):
        output = super().decode(image_embeddings, prompts, multimask_output=multimask_output)
        x = prompts.boxes[:, 0] if prompts.boxes is not None else prompts.points[:, 0, 0]
        is_right = (x > self.config.sam.image_size / 2)[:, None, None, None]
        return output._replace(mask_logits=output.mask_logits.masked_fill(is_right, -9.0))


@pytest.fixture
def half_blind() -> LoadedSam:
    torch.manual_seed(0)
    model = HalfBlindSam(SemanticSamConfig(sam=sam_config("tiny"))).eval()
    return LoadedSam(model=model, info=SemanticInfo(semantic_trained=True))


@pytest.mark.parametrize("form", ["rle", "polygon", "png", "none"])
def test_an_empty_mask_of_a_prompt_is_an_instance_of_area_0(picture, half_blind, form):
    left, right = {"x0": 5, "y0": 5, "x1": 25, "y1": 25}, {"x0": 60, "y0": 5, "x1": 90, "y1": 60}
    boxes, click = {"boxes": [left, right, left]}, {"points": [{"x": 80, "y": 30}]}
    asked = question(boxes, click, output={"mask": form})
    of_boxes, of_click = segment(tiny_engine(loaded=half_blind), picture, asked).results
    assert [each.prompt_index for each in of_boxes.instances] == [0, 1, 2]
    assert [each.area > 0 for each in of_boxes.instances] == [True, False, True]
    assert of_boxes.instances[1].box.to_list() == [0, 0, 0, 0]
    assert [each.area for each in of_click.instances] == [0, 0, 0]
    if form == "rle":
        counts = [of_boxes.instances[1].mask.counts.encode()]
        assert not decode_rle(counts, (64, 96)).any()


def test_boxes_of_the_detector_with_an_empty_mask_are_named_as_dropped(picture, half_blind):
    detector = StubDetector(car=((60, 5, 90, 60), 0.8), wheel=((5, 5, 25, 25), 0.8))
    engine = tiny_engine(loaded=half_blind, detector=detector)
    car, wheel = segment(engine, picture, question({"text": "car"}, {"text": "wheel"})).results
    assert (len(car.instances), car.num_empty) == (0, 1)
    assert (len(wheel.instances), wheel.num_empty) == (1, 0)


@pytest.mark.parametrize(
    "query",
    [
        pytest.param({"boxes": [{"x0": 200, "y0": 5, "x1": 300, "y1": 9}]}, id="box"),
        pytest.param({"boxes": [{"x0": -9, "y0": -9, "x1": -1, "y1": -1}]}, id="negative"),
        pytest.param({"points": [{"x": 97, "y": 5}]}, id="point"),
    ],
)
def test_prompts_outside_of_the_picture_are_refused_by_name(picture, query):
    car, outside = segment(tiny_engine(), picture, question({"text": "car", **ANY}, query)).results
    assert car.instances and car.error is None
    assert outside.error is not None and outside.error.error == "invalid_input"
    assert "queries.1" in outside.error.message and "outside" in outside.error.message
    assert outside.instances == [] and outside.method is None
    with pytest.raises(InvalidInput, match=r"queries\.0.*outside"):
        segment(tiny_engine(), picture, question(query, query))


# Blank, punctuation alone, a symbol, a control character: for either method.
@pytest.mark.parametrize("method", ["bank", "detector"])
@pytest.mark.parametrize("text", ["", "  ", " . ", "?!", "\u2665", "a\x00b"])
def test_a_text_with_nothing_to_look_for_costs_its_own_answer_only(picture, method, text):
    engine = tiny_engine(detector=FakeDetector())
    good = {"text": "car", **ANY}
    asked = question(good, {"text": text}, {"text": "dog", "negative": [text]}, method=method)
    reply = segment(engine, picture, asked)
    (alone,) = segment(engine, picture, question(good, method=method)).results
    assert reply.results[0] == alone and alone.instances
    for result, field in zip(
        reply.results[1:], ("queries.1.text", "queries.2.negative.0"), strict=True
    ):
        assert result.error is not None and result.error.message.startswith(field)
        assert result.instances == []
    with pytest.raises(InvalidInput, match=r"queries\.0\.text") as caught:
        segment(engine, picture, question({"text": text}, method=method))
    assert caught.value.details["problems"][0]["where"] == "queries[0]"


@pytest.mark.parametrize("method", ["bank", "detector"])
def test_spelling_does_not_change_an_answer(picture, method):
    engine = tiny_engine(detector=FakeDetector())
    spelled = ["traffic light", " Traffic  Light.", "TRAFFIC LIGHT"]
    asked = question(*({"text": text, **ANY} for text in spelled), method=method)
    first, *others = segment(engine, picture, asked).results
    assert first.instances
    for text, result in zip(spelled[1:], others, strict=True):
        assert result.instances == first.instances and result.text == text


def test_a_text_that_the_detector_alone_cannot_read_costs_its_own_answer_only(picture):
    class Choosy(StubDetector):
        def detect(self, picture, phrases, **more):
            bad = [
                {"phrase_index": n, "problem": "is too long"}
                for n, each in enumerate(phrases)
                if each == "long"
            ]
            if bad:
                raise InvalidInput("phrases[1] is too long", details={"phrases": bad})
            return super().detect(picture, phrases, **more)

    engine = tiny_engine(detector=Choosy(car=((10, 10, 50, 40), 0.8)))
    box = {"boxes": [{"x0": 10, "y0": 10, "x1": 50, "y1": 40}]}
    asked = [{"text": "car"}, {"text": "Long"}, box]
    car, long, boxed = segment(engine, picture, question(*asked, method="detector")).results
    assert len(car.instances) == len(boxed.instances) == 1
    assert long.error is not None and long.error.message == "queries.1.text is too long"
    with pytest.raises(InvalidInput, match=r"queries\.0\.text is too long"):
        segment(engine, picture, question({"text": "long"}, method="detector"))


def test_a_reply_names_the_method_and_the_threshold_of_each_query(picture):
    engine = tiny_engine(detector=StubDetector(), score_threshold=0.7)
    box = {"boxes": [{"x0": 10, "y0": 10, "x1": 50, "y1": 40}]}
    queries = [{"text": "car"}, {"text": "car", "threshold": 0.1}, box, {**box, "threshold": 0.2}]

    def applied(method: str) -> list[tuple[str | None, float | None]]:
        results = segment(engine, picture, question(*queries, method=method)).results
        return [(result.method, result.threshold) for result in results]

    prompts = [("prompts", 0.0), ("prompts", 0.2)]
    assert applied("bank") == [("bank", 0.7), ("bank", 0.1), *prompts]
    assert applied("detector") == [("detector", 0.3), ("detector", 0.1), *prompts]


def test_independent_texts_are_asked_of_the_detector_alone_and_bounded(picture):
    asked = []

    class Noting(StubDetector):
        def detect(self, picture, phrases, *, box_threshold=None, independent=False):
            asked.append(independent)
            return super().detect(picture, phrases, box_threshold=box_threshold)

    engine = tiny_engine(detector=Noting())
    for independent in (False, True):
        segment(engine, picture, question({"text": "car"}, independent=independent))
    assert asked == [False, True]
    many = [{"text": f"thing {n}"} for n in range(101)]
    with pytest.raises(InvalidInput, match="at most 100"):
        segment(engine, picture, question(*many, independent=True))
    assert segment(engine, picture, question(*many, independent=True, method="bank")).results


def test_a_box_that_sticks_out_is_cut(picture):
    engine = tiny_engine()
    out = {"boxes": [{"x0": -500, "y0": -5, "x1": 48, "y1": 5000}]}
    cut = {"boxes": [{"x0": 0, "y0": 0, "x1": 48, "y1": 64}]}
    reply = segment(engine, picture, question(out, cut))
    assert reply.results[0].instances == reply.results[1].instances


# ---- choice of the query method --------------------------------------------------------------


def test_an_untrained_head_never_scores_a_text(picture):
    engine = tiny_engine(trained=False, detector=StubDetector())
    for asked in (
        question({"text": "car"}, method="bank"),
        question({"text": "car", "boxes": [{"x0": 1, "y0": 1, "x1": 9, "y1": 9}]}),
    ):
        with pytest.raises(Conflict, match="not trained") as caught:
            segment(engine, picture, asked)
        assert caught.value.details["semantic_trained"] is False
    assert segment(engine, picture, question({"text": "car"})).method == "detector"
    with pytest.raises(Conflict, match="not trained"):
        segment(tiny_engine(trained=False), picture, question({"text": "car"}))


def test_without_a_detector_its_method_is_an_error_and_auto_builds_the_bank(picture):
    engine = tiny_engine()
    with pytest.raises(Conflict, match="SEGMENTER_DETECTOR_URL"):
        segment(engine, picture, question({"text": "car"}, method="detector"))
    assert segment(engine, picture, question({"text": "car"})).method == "bank"


def test_auto_answers_the_same_whatever_was_asked_before(picture):
    detector = StubDetector(car=((10, 10, 50, 40), 0.8))
    engine = tiny_engine(detector=detector)
    asked = question({"text": "car"}, {"text": "moon"})
    first = segment(engine, picture, asked)
    assert first.method == "detector" and detector.asked == [("car", "moon")]
    assert [len(result.instances) for result in first.results] == [1, 0]
    assert first.results[0].instances[0].score == 0.8
    by_bank = segment(engine, picture, question({"text": "car"}, method="bank"))
    assert by_bank.method == "bank" and engine.cache.get(first.image.id).bank is not None
    again = segment(engine, picture, asked)
    assert again.method == "detector" and again.results == first.results


@pytest.mark.parametrize("method", ["bank", "detector"])
def test_a_setting_chooses_what_auto_means(picture, method):
    engine = tiny_engine(detector=StubDetector(), auto_method=method)
    assert segment(engine, picture, question({"text": "car"})).method == method


def test_thresholds_and_negatives_hold_for_the_detectors_boxes_too(picture):
    detector = StubDetector(
        car=((10, 10, 50, 40), 0.8), truck=((11, 10, 50, 41), 0.9), wheel=((60, 10, 70, 20), 0.2)
    )
    engine = tiny_engine(detector=detector)

    def found(*queries: dict[str, object]) -> list[int]:
        reply = segment(engine, picture, question(*queries, method="detector"))
        return [len(result.instances) for result in reply.results]

    assert found({"text": "car"}, {"text": "car", "negative": ["truck"]}) == [1, 0]
    assert found({"text": "truck", "negative": ["car"]}) == [1]
    # The lowest threshold goes to the detector; the others are applied here.
    assert found({"text": "wheel"}, {"text": "wheel", "threshold": 0.1}) == [0, 1]
    assert found({"text": "car", "threshold": 0.81}, {"text": "wheel", "threshold": 0.1}) == [0, 1]
    assert found({"text": "car", "threshold": 0.81}) == [0]


def test_boxes_of_the_detector_that_leave_the_picture_are_cut_or_dropped(picture):
    detector = StubDetector(car=((-10, -10, 500, 500), 0.8), wheel=((200, 200, 300, 300), 0.8))
    engine = tiny_engine(detector=detector)
    reply = segment(
        engine, picture, question({"text": "car"}, {"text": "wheel"}, method="detector")
    )
    assert [len(result.instances) for result in reply.results] == [1, 0]
    assert reply.results[0].instances[0].box.x1 <= 96


def test_a_local_file_that_services_refuse_is_sent_to_the_detector_as_a_png():
    buffer = io.BytesIO()
    Image.new("RGB", (96, 64), "white").save(buffer, "TIFF")
    tiff = decode_picture(buffer.getvalue(), formats=FILE_FORMATS)
    engine = tiny_engine(detector=StubDetector(car=((10, 10, 50, 40), 0.8)))
    (car,) = segment(engine, tiff, question({"text": "car"}, method="detector")).results
    assert len(car.instances) == 1


def test_a_bank_grows_the_memory_that_a_picture_is_counted_with(picture):
    engine = tiny_engine()
    image = add_image(engine, picture)
    before = image.num_bytes
    data_bytes = image.embedding.nbytes + len(picture.encoded)
    assert before == OVERHEAD_BYTES + data_bytes == engine.cache.total_bytes
    segment(engine, picture, question({"text": "car"}, method="bank"))
    assert engine.cache.total_bytes == image.num_bytes > before


def test_other_weights_or_another_precision_give_another_id(picture):
    one, other = tiny_engine(), tiny_engine(encoder_dtype=torch.bfloat16)
    assert one.image_id(picture.sha256) != other.image_id(picture.sha256)
    assert one.image_id(picture.sha256) == tiny_engine().image_id(picture.sha256)
    assert segment(other, picture, question({"text": "car"}, method="bank")).results


def test_half_precision_in_the_cache_changes_no_mask_to_speak_of(picture):
    engine = tiny_engine()
    image = add_image(engine, picture)
    asked = question({"boxes": [{"x0": 10, "y0": 10, "x1": 50, "y1": 40}]})
    before = segment(engine, picture, asked).results[0].instances[0]
    image.embedding = image.embedding.float()
    after = segment(engine, picture, asked).results[0].instances[0]
    assert abs(before.area - after.area) <= 2
