import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from services.detector.app import create_app as create_detector
from tests.fakes import FakeCropRanker, FakeDetector, FakePrompter
from tests.serving import ready_client
from tests.worker.source_files import CAPTIONS, picture
from unspoken.client.port_clients import DetectorClient
from unspoken.errors import (
    Conflict,
    DeadlineExceeded,
    EngineFailure,
    NotAnImage,
    NotReady,
    Overloaded,
)
from unspoken.retries import RetryPolicy
from unspoken.runs.plan import LabelConfig
from unspoken.wire.label_options import LabelOptions
from worker.label.classifiers import Classifiers
from worker.label.pipeline import Ports, label_chunk
from worker.sources.row import SourceRow

CONFIG = LabelConfig(named_threshold=0.3, detector_threads=2)
CLASSIFIERS = Classifiers(detect_language=lambda text: {"en": 0.9}, score_safety=lambda p: 0.01)


def with_options(**options):
    return CONFIG.model_copy(update={"options": LabelOptions(**options)})


def ports(*, prompter=None, detector=None, ranker=None):
    return Ports(
        prompter or FakePrompter(),
        detector or FakeDetector(),
        CLASSIFIERS,
        ranker or FakeCropRanker(),
    )


def source_rows(count):
    return [
        SourceRow(key=str(i), shard="s", member="m", row=i, caption=CAPTIONS[i], picture=picture(i))
        for i in range(count)
    ]


def test_no_rows_ask_nobody():
    prompter = FakePrompter()
    assert label_chunk([], ports(prompter=prompter), CONFIG) == []
    assert prompter.num_calls == 0


def test_a_chunk_asks_once_for_all_captions_and_once_a_picture():
    prompter, detector = FakePrompter(), FakeDetector()
    rows = label_chunk(source_rows(6), ports(prompter=prompter, detector=detector), CONFIG)
    assert [row.status for row in rows] == ["labelled"] * 6
    assert (prompter.num_calls, detector.num_calls) == (1, 6)
    assert all(sum(candidate.decoy for candidate in row.candidates) == 4 for row in rows)
    assert any(annotation.kept for row in rows for annotation in row.annotations)
    assert any(a.drop_reason == "below_threshold" for row in rows for a in row.annotations)


def test_a_picture_that_only_the_detector_decodes_is_dropped_as_the_filters_drop_it():
    rows = [replace(row, columns={"punsafe": 0.01}) for row in source_rows(3)]
    rows[1] = replace(rows[1], picture=picture(1)[:-400])
    with ready_client(create_detector(FakeDetector())) as http:
        labelled = label_chunk(rows, ports(detector=DetectorClient(http)), CONFIG)
    assert [row.status for row in labelled] == ["labelled", "dropped", "labelled"]
    scored = [replace(row, columns={}) for row in rows]
    (dropped,) = label_chunk(scored[1:2], ports(), CONFIG)
    assert (dropped.reason, dropped.image_sha256) == ("undecodable", None)
    assert "damaged" in dropped.detail
    assert labelled[1].model_copy(update={"filters": dropped.filters}) == dropped


def test_a_good_picture_that_the_detector_refuses_is_a_failed_row():
    def refuse(picture, phrases):
        raise NotAnImage("unknown format")

    (row,) = label_chunk(source_rows(1), ports(detector=FakeDetector(before=refuse)), CONFIG)
    assert (row.status, row.reason, row.detail) == ("failed", "not_an_image", "unknown format")


def test_the_address_of_a_picture_is_kept_without_its_password():
    (row,) = source_rows(1)
    row = replace(row, columns={"url": "https://me:secret@host.example/a.jpg"})
    (labelled,) = label_chunk([row], ports(), CONFIG)
    assert labelled.url == "https://host.example/a.jpg"


def test_what_is_implied_and_gets_no_box_is_kept_as_a_negative():
    rows = label_chunk(source_rows(6), ports(), CONFIG)
    asked = {
        (row.key, each.phrase)
        for row in rows
        for each in row.candidates
        if each.rejected is None and not each.decoy and not each.named
    }
    answered = {(row.key, label) for row in rows for a in row.annotations for label in a.all_labels}
    negatives = {(row.key, phrase) for row in rows for phrase in row.negatives}
    assert negatives
    assert negatives <= asked - answered


def test_the_same_rows_give_the_same_answer():
    assert label_chunk(source_rows(4), ports(), CONFIG) == label_chunk(
        source_rows(4), ports(), CONFIG
    )


def test_the_runs_own_templates_are_asked():
    config = with_options(templates=("parts",))
    assert label_chunk(source_rows(2), ports(), config) == label_chunk(
        source_rows(2), ports(), CONFIG
    )
    strange = with_options(templates=("limericks",))
    rows = label_chunk(source_rows(2), ports(), strange)
    assert [row.reason for row in rows] == ["invalid_input"] * 2
    assert "limericks" in rows[0].detail


def test_a_box_whose_label_ranks_sixth_for_its_crop_is_dropped_and_one_of_the_fifth_stays():
    checked = with_options(crop_check=True)
    plain = label_chunk(source_rows(6), ports(), CONFIG)
    kept = [(row.key, each.label) for row in plain for each in row.kept]
    unlike = kept[0][1]
    ranker = FakeCropRanker({label: 5 for _, label in kept} | {unlike: 6})
    rows = label_chunk(source_rows(6), ports(ranker=ranker), checked)
    assert [(row.key, each.label) for row in rows for each in row.kept] == [
        (key, label) for key, label in kept if label != unlike
    ]
    dropped = [a for row in rows for a in row.annotations if a.drop_reason == "unlike_its_label"]
    assert dropped and {(a.label, a.clip_rank) for a in dropped} == {(unlike, 6)}
    assert all(a.clip_rank == 5 for row in rows for a in row.kept)
    others = [a for row in rows for a in row.annotations if not a.kept and a not in dropped]
    assert others and all(a.clip_rank is None for a in others)


def test_a_crop_is_compared_with_the_pictures_candidates_and_200_random_labels():
    ranker = FakeCropRanker()
    rows = label_chunk(
        source_rows(3),
        ports(ranker=ranker),
        with_options(crop_check=True).model_copy(update={"detector_threads": 1}),
    )
    assert len(ranker.asked) == 3
    for row, (crops, labels) in zip(rows, ranker.asked, strict=True):
        asked = [each.phrase for each in row.candidates if each.rejected is None and not each.decoy]
        assert labels[: len(asked)] == asked
        assert len(labels) == len(set(labels)) == len(asked) + 200
        ranked = [a for a in row.annotations if a.clip_rank is not None]
        assert [labels[crop.label_index] for crop in crops] == [a.label for a in ranked]
        assert [crop.box.to_list() for crop in crops] == [list(a.box) for a in ranked]


def test_nobody_is_asked_about_crops_unless_the_run_wants_it():
    ranker = FakeCropRanker()
    label_chunk(source_rows(3), ports(ranker=ranker), CONFIG)
    nothing_counts = with_options(crop_check=True).model_copy(update={"named_threshold": 1.0})
    label_chunk(source_rows(3), ports(ranker=ranker), nothing_counts)
    assert ranker.asked == []


def test_a_row_whose_crops_cannot_be_checked_fails_and_never_passes_unchecked():
    class Blind(FakeCropRanker):
        def rank_crops(self, picture, crops, labels):
            raise Conflict("knows no pictures")

    checked = with_options(crop_check=True)
    rows = label_chunk(source_rows(2), ports(ranker=Blind()), checked)
    assert [(row.status, row.reason) for row in rows] == [("failed", "conflict")] * 2
    assert rows[0].detail == "knows no pictures"


def test_a_row_says_which_prompts_it_answers():
    rows = label_chunk(source_rows(2), ports(), CONFIG)
    assert [row.prompt_sha256 for row in rows] == ["fake-prompts"] * 2


def test_one_bad_caption_fails_alone():
    def refuse(captions):
        if any("horse" in caption for caption in captions):
            raise EngineFailure("no words for a horse")

    rows = label_chunk(source_rows(4), ports(prompter=FakePrompter(before=refuse)), CONFIG)
    assert [row.status for row in rows] == ["labelled", "failed", "labelled", "labelled"]
    assert rows[1].reason == "engine_failure" and "horse" in rows[1].detail


def test_one_bad_picture_fails_alone():
    bad = source_rows(3)[1].picture

    def refuse(asked, phrases):
        if asked.encoded == bad:
            raise EngineFailure("not this one")

    rows = label_chunk(source_rows(3), ports(detector=FakeDetector(before=refuse)), CONFIG)
    assert [row.status for row in rows] == ["labelled", "failed", "labelled"]


def test_a_busy_service_is_asked_again_after_its_own_time():
    answers = [Overloaded("full", retry_after_s=0.01)] * 3

    def be_busy(asked, phrases):
        if answers:
            raise answers.pop()

    rows = label_chunk(source_rows(2), ports(detector=FakeDetector(before=be_busy)), CONFIG)
    assert [row.status for row in rows] == ["labelled"] * 2


def test_a_service_that_is_not_ready_fails_no_item(monkeypatch):
    monkeypatch.setattr("worker.label.pipeline.SERVICE_RETRIES", RetryPolicy(total_s=0.0))

    def loading(captions):
        raise NotReady("loading")

    with pytest.raises(NotReady):
        label_chunk(source_rows(2), ports(prompter=FakePrompter(before=loading)), CONFIG)


def test_a_chunk_that_is_given_up_leaves_nothing_under_way_and_the_next_is_labelled():
    marked = []

    @contextmanager
    def under_way(places):
        marked.append(tuple(places))
        yield
        marked.remove(tuple(places))

    def time_out(asked, phrases):
        if asked.encoded == picture(0):
            raise DeadlineExceeded("too slow")
        time.sleep(0.2)

    slow = ports(detector=FakeDetector(before=time_out))
    with pytest.raises(DeadlineExceeded):
        label_chunk(source_rows(6), slow, CONFIG, under_way=under_way)
    assert marked == [(0,)], "only what it was given up for"
    rows = label_chunk(source_rows(6), ports(), CONFIG)
    assert [row.status for row in rows] == ["labelled"] * 6
