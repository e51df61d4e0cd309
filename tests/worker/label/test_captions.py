import pytest

from worker.label.captions import count_words, is_unspaced, language_words


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("a red car", 3),
        ("cat & dog", 3),
        ("红色汽车", 2),
        ("一只狗在海滩上奔跑", 5),
        ("iPhone手机壳 黑色", 4),
        ("一只猫、一只狗。", 3),
        ("แมวนอนบนโซฟา", 4),
        ("红。", 1),
    ],
)
def test_words_are_counted_by_blanks_or_by_letters(text, count):
    assert count_words(text) == count


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("IMG_1234 dog beach", "dog beach"),
        ("Mercedes-Benz S 500 4MATIC sedan 2019", "Mercedes-Benz sedan"),
        ("photo.jpg www.example.com me@x.org #sun @jane", ""),
        ("A BMW (black), parked", "black parked"),
        ("SUNSET OVER THE BAY", "SUNSET OVER THE BAY"),
        ("“Étude” — piano", "Étude piano"),
    ],
)
def test_only_words_of_a_language_are_left(caption, words):
    assert language_words(caption) == words


def test_a_text_of_scripts_without_blanks_alone_is_told_from_a_mixed_one():
    assert is_unspaced("色情") and not is_unspaced("a色") and not is_unspaced("")
