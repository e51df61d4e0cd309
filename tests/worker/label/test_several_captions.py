"""Several captions of one picture give one row; each is used, and none is a duplicate."""

import json
import tarfile

import pytest

from tests.fakes import FakeDetector, FakePrompter
from tests.worker.source_files import CAPTIONS, add, picture, write_pictures, write_table
from unspoken.errors import EngineFailure
from unspoken.runs.plan import LabelConfig, make_plan
from unspoken.text.lexicon import load_lexicon
from unspoken.wire.filters import FilterConfig
from unspoken.wire.label_options import LabelOptions
from unspoken.wire.proposals import Phrase, PhraseSource, Proposal
from worker.label.candidates import join_proposals
from worker.label.classifiers import Classifiers
from worker.label.filters import duplicate_finder
from worker.label.pipeline import Ports, label_chunk
from worker.sources.intake import list_source, read_chunk
from worker.sources.row import SourceRow

CONFIG = LabelConfig(named_threshold=0.3, detector_threads=2)


def read_all(source, *, root, chunk_size=2):
    listing = list_source(source, root=root, is_duplicate=duplicate_finder(FilterConfig()))
    config = LabelConfig(named_threshold=0.3, options=LabelOptions(chunk_size=chunk_size))
    plan = make_plan("run", listing, config=config, models={})
    rows = [row for chunk in plan.chunks for row in read_chunk(chunk, root=root)]
    assert len(rows) == plan.num_rows
    return rows


def label(rows, *, prompter=None, detect_language=lambda text: {"en": 0.9}):
    classifiers = Classifiers(detect_language=detect_language, score_safety=lambda p: 0.01)
    ports = Ports(prompter or FakePrompter(), FakeDetector(), classifiers, None)
    return label_chunk(rows, ports, CONFIG)


@pytest.mark.parametrize("table", ["t.csv", "t.jsonl", "t.parquet"])
def test_rows_of_one_picture_that_follow_one_another_are_one_input(tmp_path, table):
    names = write_pictures(tmp_path, 4)
    texts = {
        name: [f"{CAPTIONS[i]} view {each}" for each in range(5)] for i, name in enumerate(names)
    }
    rows = [{"image": name, "caption": text} for name in names for text in texts[name]]
    write_table(tmp_path / table, rows)
    found = read_all(tmp_path / table, root=tmp_path)
    assert [row.row for row in found] == [0, 5, 10, 15]
    assert [list(row.captions) for row in found] == list(texts.values())
    assert [row.picture for row in found] == [picture(index) for index in range(4)]
    assert {row.problem for row in found} == {None}


def test_a_list_of_captions_is_one_input(tmp_path):
    write_pictures(tmp_path, 1)
    line = {"image": "0.jpg", "caption": ["a dog runs", "the dog is running", " "]}
    (tmp_path / "t.jsonl").write_text(json.dumps(line))
    (row,) = read_all(tmp_path / "t.jsonl", root=tmp_path)
    assert row.captions == ("a dog runs", "the dog is running")


def test_a_list_of_captions_in_json_beside_a_picture_is_one_input(tmp_path):
    about = json.dumps({"caption": ["a dog runs", "the dog is running"]}).encode()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/0.jpg").write_bytes(picture(0))
    (tmp_path / "folder/0.json").write_bytes(about)
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        add(tar, "0.jpg", picture(1))
        add(tar, "0.json", about)
    rows = read_all(tmp_path, root=tmp_path)
    assert [row.captions for row in rows] == [("a dog runs", "the dog is running")] * 2


def test_flickrs_own_list_is_read(tmp_path):
    names = write_pictures(tmp_path, 3)
    lines = [f"{name}#{number}\tA dog , view {number} ." for name in names for number in range(5)]
    (tmp_path / "Flickr8k.token.txt").write_text("\n".join(lines))
    rows = read_all(tmp_path / "Flickr8k.token.txt", root=tmp_path)
    assert [row.picture for row in rows] == [picture(index) for index in range(3)]
    assert {len(row.captions) for row in rows} == {5}


def test_a_json_list_is_a_table(tmp_path):
    names = write_pictures(tmp_path, 3)
    rows = [{"image": name, "caption": text} for name in names for text in ("a dog", "a cat")]
    (tmp_path / "t.json").write_text(json.dumps([*rows, "?"]))
    found = read_all(tmp_path / "t.json", root=tmp_path)
    assert [row.captions for row in found[:3]] == [("a dog", "a cat")] * 3
    assert [row.picture for row in found[:3]] == [picture(index) for index in range(3)]
    assert [row.detail for row in found[3:]] == ["entry 7 is not a JSON object"]


def test_rows_of_one_picture_far_apart_are_no_duplicates_unless_they_say_the_same(tmp_path):
    write_pictures(tmp_path, 2)
    (tmp_path / "copy.jpg").write_bytes(picture(0))
    pairs = [("0.jpg", 0), ("1.jpg", 1), ("0.jpg", 2), ("1.jpg", 1), ("copy.jpg", 3), ("0.jpg", 2)]
    write_table(tmp_path / "t.csv", [{"image": name, "text": CAPTIONS[i]} for name, i in pairs])
    rows = read_all(tmp_path / "t.csv", root=tmp_path)
    assert [row.problem for row in rows] == [None, None, None, *["duplicate"] * 3]
    assert len({row.key for row in rows}) == 6


def test_cocos_ids_are_the_same_as_text_and_as_numbers(tmp_path):
    write_pictures(tmp_path, 2)
    content = {
        "images": [{"id": 0, "file_name": "0.jpg"}, {"id": "1", "file_name": "1.jpg"}],
        "annotations": [
            {"image_id": "0", "caption": "a dog runs"},
            {"image_id": 1, "caption": "a cat sleeps"},
            {"image_id": 7, "caption": "a horse that no entry shows"},
        ],
    }
    (tmp_path / "c.json").write_text(json.dumps(content))
    rows = read_all(tmp_path / "c.json", root=tmp_path)
    assert [(row.key, row.caption, row.problem) for row in rows] == [
        ("0", "a dog runs", None),
        ("1", "a cat sleeps", None),
        ("7", "a horse that no entry shows", "bad_row"),
    ]
    assert rows[2].detail == "no entry of images has the id '7'"


def test_karpathys_files_are_read(tmp_path):
    write_pictures(tmp_path / "val2014", 2)
    images = [
        {"filepath": "val2014", "filename": "0.jpg", "imgid": 0, "cocoid": 391895, "split": "test",
         "sentences": [{"raw": "A man rides.", "imgid": 0}, {"raw": "A rider"}, None]},
        {"filename": "val2014/1.jpg", "imgid": 1, "sentences": None},
        7,
    ]  # fmt: skip
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    rows = read_all(tmp_path / "dataset_coco.json", root=tmp_path)
    assert [(row.key, row.member, row.captions, row.problem) for row in rows] == [
        ("391895", "val2014/0.jpg", ("A man rides.", "A rider"), None),
        ("1", "val2014/1.jpg", (), None),
        ("row-000002", "", (), "bad_row"),
    ]


def test_nan_is_no_caption_and_zero_is_a_key(tmp_path):
    write_pictures(tmp_path, 1)
    line = '{"image": "0.jpg", "caption": NaN, "text": "a tree beside a house", "key": 0}'
    (tmp_path / "t.jsonl").write_text(line)
    (row,) = read_all(tmp_path / "t.jsonl", root=tmp_path)
    assert (row.key, row.caption) == ("0", "a tree beside a house")


def test_a_path_as_windows_writes_it_is_found(tmp_path):
    write_pictures(tmp_path / "sub", 2)
    lines = ["image,caption", "sub\\0.jpg,a dog", ".\\sub\\1.jpg,a cat"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    rows = read_all(tmp_path / "t.csv", root=tmp_path)
    assert [(row.member, row.problem) for row in rows] == [("sub/0.jpg", None), ("sub/1.jpg", None)]
    assert rows[0].key == "0-000000"


def source_row(*captions):
    return SourceRow(
        key="k", shard="s", member="m", row=0,
        caption=" ".join(captions), captions=captions, picture=picture(0),
    )  # fmt: skip


def test_each_caption_is_asked_and_all_of_them_are_kept():
    asked = []
    prompter = FakePrompter(before=asked.extend)
    (row,) = label([source_row("A dog runs  fast", "A puppy plays outside")], prompter=prompter)
    assert asked == ["A dog runs fast", "A puppy plays outside"]
    assert row.caption == "A dog runs fast. A puppy plays outside."
    assert row.captions == ("A dog runs fast", "A puppy plays outside")
    phrases = [each.phrase for each in row.candidates if not each.decoy and not each.rejected]
    assert {"dog", "puppy"} <= set(phrases) and len(phrases) == len(set(phrases))


def test_captions_that_the_filters_refuse_are_left_out():
    def detect(text):
        return {"de": 0.99} if "hund" in text.lower() else {"en": 0.9}

    good, short, german = "A dog runs fast", "dog", "Ein Hund rennt sehr schnell"
    (row,) = label([source_row(german, short, good)], detect_language=detect)
    assert (row.status, row.caption, row.captions) == ("labelled", good, ())
    (row,) = label([source_row(short, german)], detect_language=detect)
    assert (row.status, row.reason) == ("dropped", "language")
    assert row.caption == f"{short} {german}"


def test_a_caption_that_cannot_be_asked_leaves_the_others():
    def refuse(captions):
        if any("poison" in caption for caption in captions):
            raise EngineFailure("no")

    prompter = FakePrompter(before=refuse)
    (row,) = label([source_row("A dog runs fast", "a poison bottle stands")], prompter=prompter)
    assert row.status == "labelled"
    assert row.detail == "1 of 2 captions have no proposal: no"


def phrase(text, *, named=False, template="t"):
    source = PhraseSource(template=template, model="m", rank=0)
    return Phrase(text=text, named=named, sources=(source,))


def test_phrases_of_several_captions_are_joined_in_turn():
    first = Proposal(phrases=(phrase("dog", named=True), phrase("leash"), phrase("ball")))
    second = Proposal(phrases=(phrase("cat", named=True), phrase("leash", template="u")))
    joint = join_proposals([first, second], caption="a dog. a cat, a ball.", lexicon=load_lexicon())
    assert [each.text for each in joint.phrases] == ["dog", "cat", "leash", "ball"]
    assert [each.named for each in joint.phrases] == [True, True, False, True]
    assert [source.template for source in joint.phrases[2].sources] == ["t", "u"]
