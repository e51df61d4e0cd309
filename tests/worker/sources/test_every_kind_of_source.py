"""Every kind of source, as real files, gives the same rows; a bad row does not stop the others."""

import json
import tarfile
from pathlib import Path

import pytest

from tests.worker.source_files import (
    CAPTIONS,
    add,
    picture,
    write_coco,
    write_folder,
    write_pictures,
    write_shard,
    write_table,
)
from unspoken.errors import InvalidInput, NotFound
from unspoken.runs.dataset.picture_files import PictureFiles, Place
from unspoken.runs.plan import LabelConfig, make_plan
from unspoken.wire.label_options import LabelOptions
from worker.sources.intake import list_source, read_chunk
from worker.sources.tables.columns import pick_columns

TABLES = ("t.parquet", "t.csv", "t.jsonl")


def plan_of(source, *, root, pictures=None, chunk_size=5):
    return make_plan(
        "run",
        list_source(source, root=root, pictures=pictures),
        config=LabelConfig(named_threshold=0.3, options=LabelOptions(chunk_size=chunk_size)),
        models={},
    )


def read_all(source, *, root, pictures=None, chunk_size=5):
    plan = plan_of(source, root=root, pictures=pictures, chunk_size=chunk_size)
    return [row for chunk in plan.chunks for row in read_chunk(chunk, root=root, pictures=pictures)]


@pytest.mark.parametrize(
    ("row", "picked"),
    [
        ({"URL": "u", "TEXT": "t"}, {"url": "u", "caption": "t"}),
        ({"Caption": "c", "TEXT": "t"}, {"caption": "c"}),
        ({"caption": None, "TEXT": "t"}, {"caption": "t"}),
        ({"LANGUAGE": "en", "lang": "de"}, {"language": "en"}),
        ({"PUNSAFE": 0.1, "NSFW": "UNLIKELY"}, {"punsafe": 0.1, "nsfw": "UNLIKELY"}),
        ({"p_watermark": 0.1, "Similarity": 0.3}, {"pwatermark": 0.1, "similarity": 0.3}),
        ({"image_path": "a.jpg", "Image-Path": "b.jpg"}, {"path": "a.jpg"}),
        ({"file_name": "a.jpg", "exif": "{}"}, {"path": "a.jpg"}),
    ],
)
def test_a_column_is_known_in_every_spelling(row, picked):
    assert pick_columns(row) == picked


def test_img2dataset_folders_have_the_rows_of_its_shards(tmp_path):
    for kind, write in (("tars", write_shard), ("folders", write_folder)):
        ending = ".tar" if kind == "tars" else ""
        write(tmp_path / kind / f"00000{ending}", CAPTIONS)
        write(tmp_path / kind / f"00001{ending}", CAPTIONS[:3], first_seed=50)
    tars, folders = (
        read_all(tmp_path / kind, root=tmp_path / kind) for kind in ("tars", "folders")
    )
    assert len(folders) == 15
    assert [(r.key, r.caption, r.picture) for r in folders] == [
        (r.key, r.caption, r.picture) for r in tars
    ]
    assert folders[7].columns["language"] == "en" and folders[7].columns["punsafe"] == 0.01
    assert folders[12].shard == "00001" and folders[12].member == "00001/0000100000.jpg"


def test_texts_beside_pictures_are_captions_however_deep(tmp_path):
    write_pictures(tmp_path, 2)
    write_pictures(tmp_path / "holiday/beach", 1)
    (tmp_path / "0.txt").write_text("a red kite\n")
    (tmp_path / "holiday/beach/0.txt").write_text("two boats")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "._0.jpg").write_bytes(b"left by a Mac")
    rows = read_all(tmp_path, root=tmp_path)
    assert [(row.shard, row.key, row.caption.strip()) for row in rows] == [
        (".", "0", "a red kite"),
        (".", "1", ""),
        ("holiday/beach", "holiday/beach/0", "two boats"),
    ]


def test_a_text_beside_a_picture_that_leads_outside_is_not_read(tmp_path):
    write_pictures(tmp_path / "in", 1)
    (tmp_path / "secret").write_text("a secret")
    (tmp_path / "in/0.txt").symlink_to(tmp_path / "secret")
    (row,) = read_all(tmp_path / "in", root=tmp_path / "in")
    assert (row.problem, row.caption) == ("outside_data_folder", "")


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_read_chunk_by_chunk_from_the_middle(tmp_path, table):
    names = write_pictures(tmp_path / "pics", len(CAPTIONS))
    captions = [f'{caption},\n"said" on\ntwo lines — ü' for caption in CAPTIONS]
    rows = [
        {"Image Path": f"pics/{name}", "TEXT": caption, "LANGUAGE": "en", "other": "x"}
        for name, caption in zip(names, captions, strict=True)
    ]
    write_table(tmp_path / table, rows)
    found = read_all(tmp_path / table, root=tmp_path)
    assert [row.caption for row in found] == captions
    assert [row.picture for row in found] == [picture(index) for index in range(len(CAPTIONS))]
    assert found[3].columns == {
        "path": "pics/3.jpg", "caption": captions[3], "language": "en",
    }  # fmt: skip


@pytest.mark.parametrize("table", ["t.csv", "t.jsonl"])
def test_a_chunk_of_lines_is_entered_where_it_begins(tmp_path, table):
    write_pictures(tmp_path, 4)
    write_table(tmp_path / table, [{"path": f"{i}.jpg", "text": "a dog"} for i in range(4)])
    first, second = plan_of(tmp_path / table, root=tmp_path, chunk_size=2).chunks
    content = (tmp_path / table).read_bytes()
    assert first.offset < second.offset and b"2.jpg" in content[second.offset :][:30]
    # Data before that byte is not read again.
    torn = content[: first.offset] + b"?" * (second.offset - first.offset - 1) + b"\n"
    (tmp_path / table).write_bytes(torn + content[second.offset :])
    assert [row.member for row in read_chunk(second, root=tmp_path)] == ["2.jpg", "3.jpg"]


BAD_LINES = {
    "t.jsonl": [
        "{",
        "[" * 100_000,
        '"a text"',
        '{"path": 7, "text": "a dog"}',
        '{"path": "a\\u0000.jpg", "text": null}',
        json.dumps({"path": "x" * 5000, "text": "a dog"}),
        json.dumps({"path": "loop", "text": "a dog"}),
        json.dumps({"path": "", "text": ["a dog"]}),
        '{"path": "\\ud800.jpg", "text": "half a character \\ud800", "key": "\\udfff"}',
    ],
    "t.csv": [
        "only-one",
        '"' + "long " * 30_000 + '"',
        "a\0b.jpg,x",
        f"{'x' * 5000},a dog",
        "loop,",
    ],
}


@pytest.mark.parametrize("table", BAD_LINES)
def test_a_bad_line_is_a_row_with_its_problem_and_stops_no_other(tmp_path, table):
    write_pictures(tmp_path, 2)
    (tmp_path / "loop").symlink_to("loop")
    good = [{"path": f"{i}.jpg", "text": "a dog"} for i in range(2)]
    write_table(tmp_path / table, good[:1])
    head = (tmp_path / table).read_bytes().rstrip() + b"\n"
    tail = json.dumps(good[1]) if table == "t.jsonl" else "1.jpg,a dog"
    lines = "\n".join((*BAD_LINES[table], tail)).encode() + b"\n\xff\xfe,\xff\n"
    (tmp_path / table).write_bytes(head + lines)
    rows = read_all(tmp_path / table, root=tmp_path, chunk_size=1)
    assert rows[0].problem is None and rows[-2].picture == picture(1)
    assert len(rows) == 3 + len(BAD_LINES[table])
    assert {row.problem for row in (*rows[1:-2], rows[-1])} <= {"bad_row", "no_picture"}


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", b"PAR1" * 40])
def test_a_foreign_parquet_is_invalid_input(tmp_path, content):
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(InvalidInput):
        plan_of(tmp_path / "t.parquet", root=tmp_path)


def test_coco_captions_are_one_row_a_picture_with_all_it_says(tmp_path):
    write_pictures(tmp_path / "val", 3)
    captions = [["A dog runs", "The dog, running. "], ["A cat!"], []]
    write_coco(tmp_path / "annotations/captions.json", captions)
    rows = read_all(
        tmp_path / "annotations/captions.json",
        root=tmp_path,
        pictures=tmp_path / "val",
        chunk_size=2,
    )
    assert [(row.key, row.member) for row in rows] == [
        ("100", "val/0.jpg"),
        ("101", "val/1.jpg"),
        ("102", "val/2.jpg"),
    ]
    assert [row.caption for row in rows] == ["The dog, running. A dog runs.", "A cat!", ""]
    assert rows[1].picture == picture(1)


def test_broken_entries_of_coco_captions_are_rows_with_their_problem(tmp_path):
    write_pictures(tmp_path, 1)
    content = {
        "images": [{"id": 1, "file_name": "0.jpg"}, 7, {"id": [1]}, {"id": 2, "file_name": 3}],
        "annotations": [{"image_id": 1, "caption": "a dog"}, None, {"image_id": {}, "caption": 1}],
    }
    (tmp_path / "c.json").write_text(json.dumps(content))
    rows = read_all(tmp_path / "c.json", root=tmp_path)
    assert [row.problem for row in rows] == [None, "bad_row", "bad_row", "bad_row"]


def test_json_of_too_many_elements_is_refused_before_it_is_parsed(tmp_path):
    (tmp_path / "c.json").write_bytes(b'{"images": [' + b"[]," * 8_500_000 + b"[]]}")
    with pytest.raises(InvalidInput, match="elements"):
        plan_of(tmp_path / "c.json", root=tmp_path)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"images": []}', '{"images": [{"id": 1}], "annotations": [{"id": 1}]}']
)
def test_json_that_is_no_captions_file_is_invalid_input(tmp_path, content):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(InvalidInput):
        plan_of(tmp_path / "c.json", root=tmp_path)


def test_hostile_side_files_of_a_tar_stop_no_row(tmp_path):
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for key, ending, content in (
            ("a", "json", b"[" * 100_000),
            ("b", "json", b'{"caption": {"x": 1}, "key": 7, "punsafe": "much"}'),
            ("c", "txt", b"\xff a dog"),
        ):
            add(tar, f"{key}.jpg", picture(1))
            add(tar, f"{key}.{ending}", content)
    rows = read_all(tmp_path, root=tmp_path)
    assert [row.key for row in rows] == ["a", "b", "c"]
    assert [row.caption for row in rows[:2]] == ["", ""] and "a dog" in rows[2].caption


def test_a_picture_that_may_not_be_read_is_a_row_and_stops_no_other(tmp_path, monkeypatch):
    write_pictures(tmp_path, 2)
    write_table(tmp_path / "t.csv", [{"path": f"{i}.jpg", "text": "a dog"} for i in range(2)])
    read_bytes = Path.read_bytes

    def refuse(path):
        if path.name == "0.jpg":
            raise PermissionError(path)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)  # the tests may run as root, who may all
    rows = read_all(tmp_path / "t.csv", root=tmp_path)
    assert [row.problem for row in rows] == ["unreadable", None]


def test_half_characters_are_replaced_and_stop_no_row(tmp_path):
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        add(tar, "a.jpg", picture(1))
        add(tar, "a.json", b'{"caption": "half \\ud800 a dog", "url": "\\udfff"}')
        add(tar, "b\udcff.jpg", picture(2))
        add(tar, "b\udcff.txt", b"a dog whose picture cannot be named")
    first, second = read_all(tmp_path, root=tmp_path)
    assert (first.caption, first.columns["url"], first.problem) == ("half ? a dog", "?", None)
    assert (second.key, second.member, second.problem) == ("b?", "b?.jpg", "bad_row")


def test_training_finds_the_picture_of_every_kind_of_source(tmp_path):
    write_shard(tmp_path / "tars/00000.tar", CAPTIONS[:2])
    write_folder(tmp_path / "folders/00000", CAPTIONS[:2])
    write_pictures(tmp_path / "tables/pics", 2)
    rows = [{"path": f"pics/{index}.jpg", "text": "a dog"} for index in range(2)]
    sources = ["tars", "folders", "coco/captions.json", *(f"tables/{table}" for table in TABLES)]
    for table in TABLES:
        write_table(tmp_path / "tables" / table, rows)
    write_coco(tmp_path / "coco/captions.json", [["A dog"], ["A cat"]])
    files = PictureFiles(tmp_path)
    for source in sources:
        pictures = tmp_path / "tables/pics" if "coco" in source else None
        found = read_all(tmp_path / source, root=tmp_path, pictures=pictures)
        assert len(found) == 2
        for row in found:
            assert files.read(Place(row.shard, row.member)).encoded == row.picture
    with pytest.raises(NotFound):
        files.read(Place("tables/t.csv", "../secret.jpg"))
