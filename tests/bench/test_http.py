"""Parts of the HTTP benchmark: all kinds of calls send the same query, and each is timed."""

from bench.http import NUM_TEXTS, http_figures, in_turn, over, scene
from bench.shared.random_models import TEXTS, build_engine, street
from bench.shared.served_segmenter import artificial_bank
from tests.fakes import FakeTextEncoder


def test_ways_are_asked_in_turn_and_the_first_rounds_do_not_count():
    asked = []
    ways = {name: lambda name=name: asked.append(name) for name in "ab"}
    took_ms = in_turn(ways, num_rounds=2)
    assert asked == ["a", "b"] * 5 and all(len(times) == 2 for times in took_ms.values())


def test_overhead_is_the_difference_of_percentiles():
    assert over([3.0, 4.0, 5.0], [1.0, 1.0, 2.0], 50) == 3.0


def test_ten_texts_are_asked_of_a_scene():
    picture, texts = scene()
    assert len(texts) == len(set(texts)) == NUM_TEXTS and picture.size_hw[0] > 0


def test_every_way_over_http_answers_about_a_warm_picture():
    engine, texts = build_engine("tiny", FakeTextEncoder()), FakeTextEncoder()
    image = engine.embed(street())
    engine.set_bank(image, artificial_bank(texts, image.size_hw))
    engine.cache.put(image)
    figures = http_figures(engine, texts, image, TEXTS[:3], num_rounds=3)
    assert figures["engine_p50_ms"] > 0 and figures["reply_bytes"] > 100
    assert "score" in figures["stages_ms"] and figures["overhead_p50_ms"] > 0
