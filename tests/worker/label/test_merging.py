from functools import partial

import pytest

from unspoken.runs.dataset.rows import Candidate
from unspoken.runs.plan import LabelConfig
from unspoken.text.lexicon import load_lexicon
from unspoken.wire.detections import Detection
from unspoken.wire.label_options import LabelOptions
from unspoken.wire.pictures import Box
from unspoken.wire.proposals import Phrase, PhraseSource, Proposal, RejectedCandidate
from worker.label.candidates import list_candidates
from worker.label.merging import (
    decide_annotations,
    list_undecided,
    merge_detections,
)

CONFIG = LabelConfig(named_threshold=0.3, implied_margin=0.1, max_boxes=3)
MERGE = partial(merge_detections, lexicon=load_lexicon())


def merge(
    *found,
    named=("car", "wheel", "automobile"),
    decoys=("teapot",),
    size_hw=(100, 100),
    part_of=None,
    how=MERGE,
):
    source = PhraseSource(template="parts")
    part_source = PhraseSource(template="noun_parts" if part_of else "parts", part_of=part_of)
    phrases = tuple(
        Phrase(
            text=text,
            named=text != "wheel",
            sources=(part_source if text == "wheel" else source,),
        )
        for text in named
    )
    candidates = list_candidates(Proposal(phrases=phrases), decoys, max_phrases=40)
    names = [candidate.phrase for candidate in candidates]
    detections = [
        Detection(
            phrase_index=names.index(phrase),
            phrase=phrase,
            score=score,
            box=Box(x0=box[0], y0=box[1], x1=box[2], y1=box[3]),
        )
        for phrase, score, box in found
    ]
    return how(detections, candidates, size_hw=size_hw, config=CONFIG)


def reasons(annotations):
    return [(a.label, a.drop_reason) for a in annotations]


def test_no_detections_give_no_annotations():
    assert merge() == ()


def test_a_part_within_its_whole_stays():
    annotations = merge(("car", 0.9, (10, 10, 90, 60)), ("wheel", 0.5, (20, 45, 35, 60)))
    assert reasons(annotations) == [("car", None), ("wheel", None)]


def test_a_part_that_its_whole_implied_is_believed_only_within_that_whole():
    car, inside, outside = (10, 10, 70, 60), (20, 45, 35, 60), (72, 70, 90, 90)
    annotations = merge(
        ("car", 0.9, car), ("wheel", 0.6, inside), ("wheel", 0.5, outside), part_of="car"
    )
    assert reasons(annotations) == [
        ("car", None),
        ("wheel", None),
        ("wheel", "outside_its_whole"),
    ]
    assert reasons(merge(("wheel", 0.6, inside), part_of="car")) == [("wheel", "outside_its_whole")]


def test_a_whole_that_does_not_count_is_no_home_for_parts():
    annotations = merge(
        ("car", 0.2, (10, 10, 70, 60)), ("wheel", 0.6, (20, 45, 35, 60)), part_of="car"
    )
    assert reasons(annotations) == [
        ("wheel", "outside_its_whole"),
        ("car", "below_threshold"),
    ]


def test_a_rejected_candidate_keeps_its_raw_text_and_where_it_came_from():
    rejected = RejectedCandidate(
        raw="Kettles", reason="copied", template="named", example_set=2, rank=1
    )
    (candidate,) = list_candidates(Proposal(phrases=(), rejected=(rejected,)), (), max_phrases=40)
    assert (candidate.phrase, candidate.rejected) == ("Kettles", "copied")
    assert candidate.sources == (PhraseSource(template="named", example_set=2, rank=1),)


def test_two_labels_on_one_place_are_one_object_with_an_alternate():
    (only,) = merge(("car", 0.6, (10, 10, 90, 60)), ("wheel", 0.9, (11, 10, 90, 60)))
    assert only.label == "wheel" and [alt.label for alt in only.alt_labels] == ["car"]


def test_synonyms_merge_on_less_overlap_than_others():
    box, near = (0, 0, 80, 50), (0, 0, 60, 50)  # IoU .75
    assert len(merge(("car", 0.9, box), ("automobile", 0.6, near))) == 1
    assert len(merge(("car", 0.9, box), ("wheel", 0.6, near))) == 2


def test_a_hypernym_merges_like_a_synonym():
    box, near = (0, 0, 80, 50), (0, 0, 60, 50)  # IoU .75
    for upper, lower in (("vehicle", "car"), ("old vehicle", "police car")):
        found = (upper, 0.9, box), (lower, 0.6, near)
        (only,) = merge(*found, named=(upper, lower))
        assert [alt.label for alt in only.alt_labels] == [lower]
    # Both are vehicles, but neither is the other.
    assert len(merge(("car", 0.9, box), ("bicycle", 0.6, near), named=("car", "bicycle"))) == 2


def test_the_same_label_twice_on_one_place_counts_once():
    annotations = merge(("car", 0.9, (10, 10, 60, 60)), ("car", 0.7, (12, 12, 62, 62)))
    assert reasons(annotations) == [("car", None), ("car", "repeated")]


def test_a_thing_within_its_like_counts_once():
    annotations = merge(("car", 0.9, (10, 10, 90, 60)), ("car", 0.7, (12, 12, 40, 40)))
    assert reasons(annotations) == [("car", None), ("car", "repeated")]


def test_boxes_of_one_part_are_held_to_less_overlap():
    first, second = (20, 20, 40, 40), (30, 20, 50, 40)  # IoU .33
    annotations = merge(
        ("car", 0.9, (10, 10, 90, 60)), ("wheel", 0.8, first), ("wheel", 0.7, second), part_of="car"
    )
    assert reasons(annotations) == [("car", None), ("wheel", None), ("wheel", "repeated")]


def test_implied_labels_need_more_than_named_ones():
    annotations = merge(("car", 0.32, (10, 10, 60, 60)), ("wheel", 0.35, (62, 62, 90, 90)))
    assert sorted(reasons(annotations)) == [("car", None), ("wheel", "below_threshold")]


@pytest.mark.parametrize(
    ("templates", "named", "reason"),
    [
        (("parts",), False, "below_threshold"),
        (("parts", "parts"), False, "below_threshold"),
        (("parts", "place"), False, None),
        (("parts",), True, None),
    ],
)
def test_an_implied_label_of_one_template_can_be_asked_for_more(templates, named, reason):
    candidate = Candidate(
        id=0,
        phrase="lamp",
        named=named,
        stuff=False,
        decoy=False,
        sources=tuple(PhraseSource(template=each, rank=i) for i, each in enumerate(templates)),
    )
    box = Box(x0=10, y0=10, x1=60, y1=60)
    found = [Detection(phrase_index=0, phrase="lamp", score=0.45, box=box)]

    def reason_of(config):
        (only,) = MERGE(found, [candidate], size_hw=(100, 100), config=config)
        return only.drop_reason

    assert reason_of(CONFIG) is None
    assert (
        reason_of(CONFIG.model_copy(update={"options": LabelOptions(single_template_margin=0.1)}))
        == reason
    )


def test_slivers_and_whole_pictures_do_not_count():
    annotations = merge(("car", 0.9, (0, 0, 100, 100)), ("wheel", 0.8, (10, 10, 17, 60)))
    assert reasons(annotations) == [("car", "covers_image"), ("wheel", "too_small")]


def test_a_box_is_too_small_by_its_pixels_or_by_its_share_of_the_picture():
    def reason(side_px, picture_px):
        (only,) = merge(("car", 0.9, (0, 0, side_px, side_px)), size_hw=(picture_px, picture_px))
        return only.drop_reason

    assert reason(8, 192) is None
    assert reason(7.5, 192) == "too_small"  # .15 % of the picture
    assert reason(16, 500) is None
    assert reason(15, 500) == "too_small"  # .09 %


def test_a_decoy_is_stored_and_never_kept_nor_an_alternate():
    annotations = merge(("teapot", 0.95, (10, 10, 60, 60)), ("car", 0.9, (10, 10, 60, 60)))
    assert reasons(annotations) == [("teapot", "decoy"), ("car", None)]
    assert annotations[1].alt_labels == ()


def test_boxes_are_cut_to_the_picture_and_to_the_limit():
    found = [("car", 0.9 - i / 50, (20 * i - 9, 0, 20 * i + 9, 30)) for i in range(5)]
    annotations = merge(*found)
    assert annotations[0].box == (0, 0, 9, 30)
    assert [a.kept for a in annotations] == [True, True, True, False, False]


def test_undecided_boxes_are_stored_unmerged_and_tell_only_their_shape():
    found = [
        ("car", 0.9, (10, 10, 90, 60)),
        ("automobile", 0.8, (10, 10, 90, 60)),
        ("teapot", 0.7, (10, 10, 60, 60)),
        ("car", 0.6, (12, 12, 90, 60)),
        ("wheel", 0.1, (10, 10, 12, 60)),
    ]
    assert reasons(merge(*found, how=list_undecided)) == [
        ("car", "undecided"),
        ("automobile", "undecided"),
        ("teapot", "undecided"),
        ("car", "repeated"),
        ("wheel", "too_small"),
    ]


def test_a_threshold_may_be_chosen_for_parts_alone():
    car, wheel = ("car", 0.4, (10, 10, 90, 60)), ("wheel", 0.35, (20, 45, 35, 60))
    undecided = {"how": list_undecided, "part_of": "car"}
    for threshold, reason in ((0.35, None), (0.36, "below_threshold"), (None, "below_threshold")):
        decided = decide_annotations(
            merge(car, wheel, **undecided),
            [
                Candidate(id=0, phrase="car", named=True, stuff=False, decoy=False, sources=()),
                Candidate(
                    id=1,
                    phrase="wheel",
                    named=False,
                    stuff=False,
                    decoy=False,
                    sources=(PhraseSource(template="noun_parts", part_of="car"),),
                ),
            ],
            size_hw=(100, 100),
            config=CONFIG,
            lexicon=load_lexicon(),
            thresholds={"named": 0.4, "implied": None, "part": threshold},
        )
        assert reasons(decided) == [("car", None), ("wheel", reason)]
