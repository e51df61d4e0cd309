import statistics
from dataclasses import replace

import pytest

from smallworld.captions import (
    Caption,
    CaptionConfig,
    join_words,
    plural,
    with_article,
    write_caption,
)
from smallworld.scenes import Scene, SceneConfig, compose_scene
from tests.smallworld.tiny_world import tiny_classes, tiny_world
from unspoken.errors import InvalidInput

PLAIN = CaptionConfig(synonym_p=0, brand_p=0, noise_p=0, wrong_p=0, foreign_p=0, unsafe_p=0)
NUM = 1500


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    world = tiny_world()
    return [compose_scene(world, seed=seed, config=SceneConfig(size_px=96)) for seed in range(100)]


@pytest.fixture(scope="module")
def captions(scenes) -> list[tuple[Scene, Caption]]:
    return write_many(scenes)


def write_many(scenes, config: CaptionConfig | None = None) -> list[tuple[Scene, Caption]]:
    config = config or CaptionConfig()
    pairs = ((scenes[seed % len(scenes)], seed) for seed in range(NUM))
    return [
        (scene, write_caption(scene, tiny_classes(), seed=seed, config=config))
        for scene, seed in pairs
    ]


def test_the_same_seed_gives_the_same_caption(scenes):
    first, again = (write_caption(scenes[0], tiny_classes(), seed=3) for _ in range(2))
    assert first == again


def test_a_whole_is_named_in_about_45_percent_and_a_part_in_few(scenes):
    pairs = write_many(scenes, PLAIN)
    wholes = [
        label in caption.named
        for scene, caption in pairs
        for label in {each.label for each in scene.objects if not each.is_part}
    ]
    parts = [
        label in caption.named
        for scene, caption in pairs
        for label in {each.label for each in scene.objects if each.is_part}
    ]
    assert 0.42 < statistics.mean(wholes) < 0.48
    assert 0.02 < statistics.mean(parts) < 0.04


def test_what_is_named_stands_in_the_text(scenes):
    for _, caption in write_many(scenes, PLAIN):
        text = caption.text.lower()
        assert all(label in text or plural(label) in text for label in caption.named)


def test_some_captions_name_nothing_and_all_have_three_words(captions):
    assert any(not caption.named for _, caption in captions)
    assert all(
        len(caption.text.split()) >= 3 for _, caption in captions if caption.language == "en"
    )


def test_about_4_percent_of_the_rows_must_be_dropped_by_the_filters(captions):
    droppable = [caption for _, caption in captions if caption.is_droppable]
    assert 0.02 < len(droppable) / NUM < 0.065
    assert any(caption.language != "en" for caption in droppable)
    assert any(caption.nsfw == "NSFW" and caption.punsafe >= 0.5 for caption in droppable)
    assert all(caption.punsafe < 0.1 for _, caption in captions if not caption.is_droppable)


def test_about_5_percent_name_something_that_is_not_there(captions):
    wrong = [(scene, caption) for scene, caption in captions if caption.wrong]
    assert 0.03 < len(wrong) / NUM < 0.07
    for scene, caption in wrong:
        assert not set(caption.wrong) & {each.label for each in scene.objects}


def test_brands_stand_in_for_a_thing_without_naming_it(scenes):
    pairs = write_many(scenes, replace(PLAIN, brand_p=1.0, whole_p=1.0, part_p=0.0))
    for scene, caption in pairs[:50]:
        kinds = {each.label for each in scene.objects if not each.is_part}
        assert len(caption.named) == len(kinds) - 1


def test_synonyms_are_spoken_and_count_as_naming_the_label(scenes):
    pairs = write_many(scenes, replace(PLAIN, synonym_p=1.0, whole_p=1.0))
    spoken = [caption for _, caption in pairs if "automobile" in caption.text.lower()]
    assert spoken
    assert all("car" in caption.named for caption in spoken)


def test_two_of_a_kind_are_spoken_in_the_plural(scenes):
    pairs = write_many(scenes, replace(PLAIN, whole_p=1.0))
    twins = [
        (label, caption.text.lower())
        for scene, caption in pairs
        for label in {each.label for each in scene.objects if not each.is_part}
        if sum(each.label == label for each in scene.objects) > 1
    ]
    assert twins
    assert all(plural(label) in text for label, text in twins)


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("car", "cars"),
        ("bus", "buses"),
        ("berry", "berries"),
        ("monkey", "monkeys"),
        ("kitchen knife", "kitchen knives"),
        ("bunch of grapes", "bunches of grapes"),
        ("sheep", "sheep"),
        ("scissors", "scissors"),
        ("wine glass", "wine glasses"),
    ],
)
def test_plurals_are_those_of_english(noun, expected):
    assert plural(noun) == expected


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("car", "a car"),
        ("apple", "an apple"),
        ("unicorn", "a unicorn"),
        ("jeans", "jeans"),
        ("french fries", "french fries"),
        ("bus", "a bus"),
    ],
)
def test_articles_are_those_of_english(noun, expected):
    assert with_article(noun) == expected


def test_words_are_joined_as_in_a_sentence():
    assert join_words([]) == ""
    assert join_words(["a car"]) == "a car"
    assert join_words(["a car", "a bus", "a tree"]) == "a car, a bus and a tree"


def test_a_probability_above_one_is_refused():
    with pytest.raises(InvalidInput, match="whole_p"):
        CaptionConfig(whole_p=1.5)
