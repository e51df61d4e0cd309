"""A dataset's pictures are read from their source, and changed pictures are refused."""

import hashlib
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.worker.source_files import add, picture
from tests.worker.stage import Stage
from unspoken.errors import InvalidInput, NotFound
from unspoken.runs.dataset.picture_files import Bytes, PictureFiles, Place
from unspoken.runs.exports.coco import export_coco
from unspoken.runs.exports.hugging_face import export_hugging_face
from unspoken.runs.exports.label_studio import export_label_studio
from unspoken.runs.exports.report import write_report
from unspoken.runs.exports.webdataset import export_webdataset
from unspoken.runs.store import create_run
from unspoken.wire.runs import RunRequest

CAPTION = b"a brown dog runs beside the old barn"


def sha256(encoded):
    return hashlib.sha256(encoded).hexdigest()


@pytest.fixture
def repeated(tmp_path):
    """Write a tar with two pictures of the same name; return its path."""
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for seed in (1, 2):
            add(tar, "a.jpg", picture(seed))
            add(tar, f"b{seed}.txt", b"between")
    return tmp_path / "t.tar"


@pytest.mark.parametrize("seed", [1, 2])
def test_a_name_that_comes_twice_in_a_tar_is_read_by_its_place(repeated, seed):
    with tarfile.open(repeated) as tar:
        member = tar.getmembers()[2 * seed - 2]
    at = Bytes(member.offset_data, member.size)
    found = PictureFiles(repeated.parent).read(Place("t.tar", "a.jpg", at))
    assert found.encoded == picture(seed)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("at", [None, Bytes(100, 50), Bytes(10**9, 10)])
def test_a_place_that_is_missing_or_stale_is_found_by_name_and_digest(repeated, seed, at):
    place = Place("t.tar", "a.jpg", at, sha256(picture(seed)))
    assert PictureFiles(repeated.parent).read(place).encoded == picture(seed)


def test_a_place_of_an_absurd_size_is_not_read(repeated):
    with pytest.raises(InvalidInput, match="bytes"):
        PictureFiles(repeated.parent).read(Place("t.tar", "a.jpg", Bytes(0, 10**12)))


def test_members_before_a_tear_and_hard_links_are_found_by_name(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        add(tar, "a.jpg", picture(1))
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "a.jpg"
        tar.addfile(link)
        add(tar, "c.jpg", picture(3))
    whole = (tmp_path / "t.tar").read_bytes()
    with tarfile.open(tmp_path / "t.tar") as tar:
        cut = tar.getmember("c.jpg").offset_data + 100
    (tmp_path / "t.tar").write_bytes(whole[:cut])
    files = PictureFiles(tmp_path)
    assert files.read(Place("t.tar", "b.jpg")).encoded == picture(1)
    assert files.read(Place("t.tar", "a.jpg")).encoded == picture(1)


def test_a_tar_that_is_none_has_no_pictures(tmp_path):
    (tmp_path / "t.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(NotFound, match="not a readable tar"):
        PictureFiles(tmp_path).read(Place("t.tar", "a.jpg"))


@pytest.mark.parametrize("column", ["image", "jpg"])
def test_pictures_of_a_parquet_table_are_read_in_any_order(tmp_path, column):
    encoded = [picture(seed) for seed in range(10)]
    cells = [{"bytes": each, "path": None} for each in encoded] if column == "image" else encoded
    pq.write_table(pa.table({column: cells}), tmp_path / "t.parquet", row_group_size=4)
    files = PictureFiles(tmp_path)
    for row in (7, 0, 9, 3, 4):
        assert files.read(Place("t.parquet", f"t.parquet/{row}/{column}")).encoded == encoded[row]
    for member in ("t.parquet/10/image", "t.parquet/x/image", "t.parquet/0/none", "t.parquet/"):
        with pytest.raises((NotFound, InvalidInput)):
            files.read(Place("t.parquet", member))


def exported_pictures(run_dir, out):
    """Write every export; return the pictures in the webdataset and in the Hugging Face table."""
    export_webdataset(run_dir, out / "wds")
    export_hugging_face(run_dir, out / "hf")
    assert export_label_studio(run_dir, out / "ls")["tasks"] == 2
    assert write_report(run_dir, out / "report")["pictures"] == 2
    assert export_coco(run_dir, out / "coco.json")["images"] == 2
    with (out / "wds/00000.tar").open("rb") as stream, tarfile.open(fileobj=stream) as tar:
        members = [member for member in tar if member.name.endswith(".jpg")]
        in_tar = [tar.extractfile(member).read() for member in members]
    (file,) = (out / "hf/data").iterdir()
    in_table = [row["bytes"] for row in pq.read_table(file)["image"].to_pylist()]
    return in_tar, in_table


def test_a_run_over_a_tar_with_a_repeated_name_can_be_exported(tmp_path):
    stage = Stage(tmp_path)
    first, second = (picture(seed, size=(100, 80)) for seed in (70, 71))
    with tarfile.open(tmp_path / "data/in/00000.tar", "w") as tar:
        for name, content in (("a", first), ("b", b""), ("a", second)):
            add(tar, f"{name}.jpg", content)
            add(tar, f"{name}.txt", CAPTION)
    stage.create()
    assert stage.tick(8).state == "done"
    labelled = [row for row in stage.rows() if row.status == "labelled"]
    assert [row.source_member for row in labelled] == ["a.jpg", "a.jpg"]
    (tmp_path / "out").mkdir()
    in_tar, in_table = exported_pictures(tmp_path / "runs/r", tmp_path / "out")
    assert in_tar == in_table == [first, second]


def test_a_run_over_pictures_in_a_parquet_table_can_be_exported(tmp_path):
    stage = Stage(tmp_path)
    encoded = [picture(seed, size=(100, 80)) for seed in (70, 71)]
    (tmp_path / "data/in/00000.tar").unlink()
    table = pa.table(
        {
            "image": [{"bytes": each, "path": f"{n}.jpg"} for n, each in enumerate(encoded)],
            "text": [CAPTION.decode()] * 2,
        }
    )
    pq.write_table(table, tmp_path / "data/t.parquet")
    (tmp_path / "data/in/00000.parquet").unlink()
    create_run(stage.data_dir, stage.runs_dir, RunRequest(source="t.parquet", run_id="r"))
    assert stage.tick(8).state == "done"
    assert [row.key for row in stage.rows()] == ["0", "1"]
    (tmp_path / "out").mkdir()
    in_tar, in_table = exported_pictures(tmp_path / "runs/r", tmp_path / "out")
    assert in_tar == in_table == encoded
