"""Real-world folders: every picture and every caption belongs to a row."""

import io
import json
import os
import shutil
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from tests.worker.source_files import picture, write_pictures
from unspoken.errors import InvalidInput
from unspoken.imaging.images import decode_picture
from unspoken.runs.plan import LabelConfig, make_plan
from unspoken.wire.label_options import LabelOptions
from worker.sources.intake import list_source, read_chunk

NOBODY = 65_534


def read_all(source, *, root=None, chunk_size=2):
    root = root or source
    plan = make_plan(
        "run",
        list_source(source, root=root),
        config=LabelConfig(named_threshold=0.3, options=LabelOptions(chunk_size=chunk_size)),
        models={},
    )
    rows = [row for chunk in plan.chunks for row in read_chunk(chunk, root=root)]
    assert len(rows) == plan.num_rows
    return rows


def encoded(kind):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture(3))).save(buffer, kind)
    return buffer.getvalue()


@contextmanager
def as_nobody(folder):
    """Drop root's permission to read everything."""
    if os.geteuid():
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder():
    """Yield a folder that all users can enter, unlike pytest's own folders."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


def test_captions_are_found_under_every_usual_name(tmp_path):
    for number, (name, beside) in enumerate(
        [("A.JPG", "A.TXT"), ("b.jpg", "b.caption"), ("c.JPG", "c.JPG.txt"), ("d.jpeg", "d.Txt")]
    ):
        (tmp_path / name).write_bytes(picture(number))
        (tmp_path / beside).write_text(f"caption of {name}")
    rows = read_all(tmp_path)
    assert [(row.member, row.caption) for row in rows] == [
        (name, f"caption of {name}") for name in ("A.JPG", "b.jpg", "c.JPG", "d.jpeg")
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"])
@pytest.mark.parametrize("ending", ["txt", "json"])
def test_side_files_are_read_in_every_common_encoding(tmp_path, ending, encoding):
    write_pictures(tmp_path, 1)
    text = "Ein grünes Auto vor dem Café"
    content = text if ending == "txt" else json.dumps({"caption": text}, ensure_ascii=False)
    (tmp_path / f"0.{ending}").write_bytes(content.encode(encoding))
    (row,) = read_all(tmp_path)
    assert row.caption == text


def test_every_format_that_is_read_is_a_picture_and_every_other_is_a_row(tmp_path):
    kinds = {"bmp": "BMP", "gif": "GIF", "tif": "TIFF", "tiff": "TIFF", "avif": "AVIF"}
    kinds |= {"jfif": "JPEG", "jpe": "JPEG", "png": "PNG", "webp": "WEBP"}
    for ending, kind in kinds.items():
        (tmp_path / f"{ending}.{ending}").write_bytes(encoded(kind))
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    rows = read_all(tmp_path)
    assert sorted(row.member for row in rows) == sorted(
        [*(f"{ending}.{ending}" for ending in kinds), "phone.HEIC"]
    )
    assert all(row.picture is not None for row in rows)


def test_a_fifo_is_not_waited_for(tmp_path):
    write_pictures(tmp_path, 2)
    os.mkfifo(tmp_path / "0.txt")
    os.mkfifo(tmp_path / "2.jpg")
    (tmp_path / "1.txt").write_text("a dog")
    rows = read_all(tmp_path)
    assert [(row.problem, row.detail) for row in rows] == [
        ("unreadable", "0.txt is not a regular file"),
        (None, None),
        ("no_picture", None),
    ]


def test_a_socket_beside_a_picture_costs_its_own_row(tmp_path, monkeypatch):
    write_pictures(tmp_path, 2)
    (tmp_path / "1.txt").write_text("a dog")
    monkeypatch.chdir(tmp_path)  # a socket's path has 107 bytes at most
    with socket.socket(socket.AF_UNIX) as beside:
        beside.bind("0.txt")
        rows = read_all(tmp_path)
    assert [(row.problem, row.detail) for row in rows] == [
        ("unreadable", "0.txt is not a regular file"),
        (None, None),
    ]


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet", "t.json", "00000.tar"])
def test_a_source_that_is_a_fifo_is_refused(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InvalidInput, match="regular file"):
        read_all(tmp_path / name, root=tmp_path)


@pytest.mark.parametrize("mode", [0o000, 0o644])
def test_a_folder_without_permission_is_counted_and_stops_no_other(open_folder, mode):
    write_pictures(open_folder / "good", 2)
    write_pictures(open_folder / "closed", 2)
    (open_folder / "closed/0.txt").write_text("a dog")
    with as_nobody(open_folder):
        (open_folder / "closed").chmod(mode)
        rows = read_all(open_folder)
    assert [row.problem for row in rows if row.shard == "good"] == [None, None]
    closed = [row for row in rows if row.shard != "good"]
    assert {row.problem for row in closed} == {"unreadable"}
    if mode:  # the names can be seen
        assert [row.key for row in closed] == ["closed/0", "closed/1"]
    else:
        assert [(row.key, row.detail) for row in closed] == [
            ("closed", "the folder closed cannot be read: permission denied")
        ]


def test_files_without_permission_are_counted_and_stop_no_other(open_folder):
    write_pictures(open_folder, 3)
    (open_folder / "1.txt").write_text("a dog")
    with as_nobody(open_folder):
        (open_folder / "0.jpg").chmod(0)
        (open_folder / "1.txt").chmod(0)
        rows = read_all(open_folder)
    assert [(row.problem, row.detail) for row in rows] == [
        ("unreadable", None),
        ("unreadable", "1.txt cannot be read: permission denied"),
        (None, None),
    ]


def test_a_source_that_may_not_be_read_says_so(open_folder):
    write_pictures(open_folder / "in", 1)
    with as_nobody(open_folder):
        (open_folder / "in").chmod(0)
        with pytest.raises(InvalidInput, match="'in' cannot be read: permission denied"):
            read_all(open_folder / "in")


def test_links_to_folders_are_followed_within_the_data_folder_and_counted_outside(tmp_path):
    root = tmp_path / "data"
    write_pictures(root / "in/own", 1)
    write_pictures(root / "other", 2)
    write_pictures(tmp_path / "outside", 1)
    for name, target in {
        "in/again": root / "in/own",
        "in/linked": root / "other",
        "in/loop": root / "in",
        "in/dangling.jpg": root / "none.jpg",
        "in/up": root,
        "in/wander": tmp_path / "outside",
    }.items():
        (root / name).symlink_to(target)
    rows = read_all(root / "in", root=root)
    found = [(row.key, row.member, row.problem) for row in rows]
    assert found == [
        ("in/dangling", "dangling.jpg", "no_picture"),
        ("in/wander", "in/wander", "outside_data_folder"),
        ("in/linked/0", "other/0.jpg", None),
        ("in/linked/1", "other/1.jpg", None),
        ("in/own/0", "in/own/0.jpg", None),
    ]


@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.csv"])
def test_the_metadata_of_an_imagefolder_holds_the_captions(tmp_path, table):
    write_pictures(tmp_path / "train", 3)
    write_pictures(tmp_path / "train/deep", 1)
    said = [("0.jpg", "a dog"), ("1.jpg", "a cat"), ("1.jpg", "a kitten"), ("deep/0.jpg", "a cow")]
    said.append(("lost.jpg", "a horse"))
    if table == "metadata.csv":
        lines = ["file_name,text", *(f"{name},{text}" for name, text in said), "x,y,z"]
    else:
        lines = [*(json.dumps({"file_name": name, "text": text}) for name, text in said), "{"]
    (tmp_path / "train" / table).write_text("\n".join(lines))
    (tmp_path / "train/0.txt").write_text("a dog, as its own text says")
    rows = read_all(tmp_path)
    assert [(row.key, row.captions, row.problem) for row in rows[:3]] == [
        ("train/0", ("a dog, as its own text says",), None),
        ("train/1", ("a cat", "a kitten"), None),
        ("train/2", (), None),
    ]
    assert (rows[3].key, rows[3].captions, rows[3].problem) == (
        "train/lost.jpg", ("a horse",), "no_picture",
    )  # fmt: skip
    assert rows[4].problem == "bad_row" and f"{table}: line" in rows[4].detail
    assert [(row.key, row.caption) for row in rows[5:]] == [("train/deep/0", "a cow")]


def test_a_folder_whose_name_is_not_utf8_is_counted(open_folder):
    write_pictures(open_folder, 1)
    (open_folder / "closed\udcff").mkdir()
    with as_nobody(open_folder):
        (open_folder / "closed\udcff").chmod(0)
        rows = read_all(open_folder)
    assert [(row.key, row.problem) for row in rows] == [("0", None), ("closed?", "bad_row")]
    assert rows[1].detail == "the folder closed? cannot be read: permission denied"


def test_a_caption_without_a_picture_is_a_row(tmp_path):
    write_pictures(tmp_path, 1)
    (tmp_path / "1.txt").write_text("a dog")
    rows = read_all(tmp_path)
    assert [(row.key, row.caption, row.problem) for row in rows] == [
        ("0", "", None),
        ("1", "a dog", "no_picture"),
    ]


def test_the_pictures_of_every_format_are_what_pillow_shows(tmp_path):
    for kind in ("BMP", "GIF", "TIFF", "AVIF"):
        (tmp_path / f"{kind}.{kind.lower()}").write_bytes(encoded(kind))
    for row in read_all(tmp_path):
        assert decode_picture(row.picture, formats=[Path(row.member).stem]).size_hw == (80, 96)
