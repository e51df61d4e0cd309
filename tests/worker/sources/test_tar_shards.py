"""Tar shards: webdataset's samples, each input once; of a damaged tar only lost data is missing."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from webdataset.tariterators import group_by_keys, tar_file_expander

from tests.worker.source_files import CAPTIONS, add, picture, write_shard
from unspoken.runs.plan import LabelConfig, make_plan
from unspoken.wire.label_options import LabelOptions
from worker.sources.intake import list_source, read_chunk
from worker.sources.row import Span
from worker.sources.tar_shards import tar_rows

ONE, TWO = picture(1), picture(2)


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            add(tar, name, content)
    return path


def read_all(source: Path, *, chunk_size: int = 1):
    """Read the rows of a plan chunk by chunk, as a worker does."""
    root = source if source.is_dir() else source.parent
    plan = make_plan(
        "run",
        list_source(source, root=root),
        config=LabelConfig(named_threshold=0.3, options=LabelOptions(chunk_size=chunk_size)),
        models={},
    )
    rows = [row for chunk in plan.chunks for row in read_chunk(chunk, root=root)]
    assert len(rows) == plan.num_rows
    return rows


SHARDS = {
    "img2dataset": ["000.jpg", "000.txt", "000.json", "001.jpg", "001.txt", "001.json"],
    "one folder a sample": ["s0/rgb.jpg", "s0/rgb.txt", "s1/rgb.jpg", "s1/rgb.txt"],
    "mispaired": ["s1/image.jpg", "s1/image.txt", "s2/image.jpg"],
    "repeated later": ["a.jpg", "a.txt", "b.jpg", "b.txt", "a.jpg", "a.txt"],
    "dots in folders": ["v1.0/a.jpg", "v1.0/a.txt", "v2.0/a.jpg", "v2.0/a.txt"],
    "upper case": ["A.JPG", "A.TXT", "a.PNG", "a.txt"],
    "from a dot": ["./a.jpg", "./a.txt", "./b.jpg", "./b.txt"],
    "other fields": ["a.cls", "a.jpg", "a.npy", "a.txt", "b.jpg", "b.txt", "b.xyz"],
    "apart": ["a.jpg", "b.jpg", "a.txt", "b.txt"],
    "a name of no sample between": ["a.jpg", "README", "a.txt", ".hidden", "b.jpg", "b.txt"],
}


@pytest.mark.parametrize("names", SHARDS.values(), ids=SHARDS)
def test_rows_are_the_samples_of_the_webdataset_library(tmp_path, names):
    members = []
    for place, name in enumerate(names):
        ending = name.rpartition(".")[2].lower()
        content = {"txt": f"caption {place}".encode(), "json": b'{"x": 1}'}.get(ending)
        members.append((name, content or picture(place)))
    shard = write_tar(tmp_path / "00000.tar", members)
    with shard.open("rb") as stream:
        files = tar_file_expander([{"url": str(shard), "stream": stream}])
        samples = list(group_by_keys(files))
    expected = [
        (
            sample["__key__"],
            sample.get("jpg", sample.get("png")),
            sample.get("txt", b"").decode(),
        )
        for sample in samples
    ]
    rows = read_all(shard)
    assert [(row.key, row.picture, row.caption) for row in rows] == expected


def test_a_caption_never_goes_to_the_picture_of_another_folder(tmp_path):
    shard = write_tar(
        tmp_path / "t.tar",
        [("s1/image.jpg", ONE), ("s1/image.txt", b"one"), ("s2/image.jpg", TWO)],
    )
    rows = read_all(shard)
    assert [(row.picture, row.caption) for row in rows] == [(ONE, "one"), (TWO, "")]


EXTRAS = {
    "second picture": (
        ["a.jpg", "a.png", "a.txt"],
        [("a", "a.jpg", None), ("a", "a.png", "second_picture")],
    ),
    "mask as another field": (
        ["a.jpg", "a.seg.png", "a.txt"],
        [("a", "a.jpg", None), ("a.seg", "a.seg.png", "second_picture")],
    ),
    "second text": (
        ["a.caption", "a.jpg", "a.txt"],
        [("a", "a.jpg", None), ("a", "", "second_caption")],
    ),
    "second json": (
        ["a.jpg", "a.jpg.json", "a.json"],
        [("a", "a.jpg", None), ("a", "", "second_caption")],
    ),
    "repeated member": (
        ["a.jpg", "a.txt", "a.jpg", "a.txt"],
        [("a", "a.jpg", None), ("a", "a.jpg", "repeated_member")],
    ),
    "repeated text": (
        ["a.jpg", "a.txt", "a.txt"],
        [("a", "a.jpg", None), ("a", "", "repeated_member")],
    ),
    "caption beside a picture": (
        ["a.jpg", "b.txt"],
        [("a", "a.jpg", None), ("b", "", "no_picture")],
    ),
    "caption of the key": (["a.left.jpg", "a.txt"], [("a", "a.left.jpg", None)]),
    "dated names": (
        ["shot.01.png", "shot.01.txt", "shot.02.png", "shot.02.txt"],
        [("shot.01", "shot.01.png", None), ("shot.02", "shot.02.png", None)],
    ),
    "whole name and ending": (["a.jpg", "a.jpg.txt"], [("a", "a.jpg", None)]),
    "json of something else": (["a.jpg", "a.txt", "stats.json"], [("a", "a.jpg", None)]),
}


def content_of(place: int, name: str) -> bytes:
    if name == "list.json":
        return json.dumps({"captions": ["one of a list", "two of a list"], "url": "u"}).encode()
    if name == "stats.json":
        return b'{"successes": 1}'
    if name.endswith(".json"):
        return json.dumps({"caption": f"json {place}"}).encode()
    return f"text {place}".encode() if name.endswith((".txt", ".caption")) else picture(place)


@pytest.mark.parametrize(("names", "expected"), EXTRAS.values(), ids=EXTRAS)
@pytest.mark.parametrize("chunk_size", [1, 2, 64])
def test_what_one_sample_cannot_hold_is_a_row_with_its_reason(
    tmp_path, names, expected, chunk_size
):
    members = [(name, content_of(place, name)) for place, name in enumerate(names)]
    first = [("0.jpg", picture(50)), ("0.txt", b"before")]
    last = [("z.jpg", picture(51)), ("z.txt", b"behind")]
    shard = write_tar(tmp_path / "t.tar", [*first, *members, *last])
    rows = read_all(shard, chunk_size=chunk_size)
    assert [(row.key, row.member, row.problem) for row in rows[1:-1]] == expected
    assert (rows[0].caption, rows[-1].caption) == ("before", "behind")
    assert rows[-1].picture == picture(51)
    assert all(row.detail for row in rows if row.problem)
    captions = [row.caption for row in rows if row.caption]
    assert len(set(captions)) == len(captions)


@pytest.mark.parametrize(
    "names",
    [
        *SHARDS.values(),
        *(names for names, _ in EXTRAS.values()),
        ["list.jpg", "list.json"],
        ["photo.heic", "photo.txt", "film.gif", "film.txt", "x.bmp", "x.caption"],
    ],
)
def test_a_folder_has_the_rows_of_a_tar_of_its_files(tmp_path, names):
    flat = sorted({name.removeprefix("./").replace("/", "-") for name in names})
    members = [(name, content_of(place, name)) for place, name in enumerate(flat)]
    for name, content in members:
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    shard = write_tar(tmp_path / "tar/t.tar", members)
    of_folder, of_tar = (read_all(source) for source in (tmp_path / "folder", shard))
    assert of_folder
    assert [(r.key, r.row, r.picture, r.captions, r.columns, r.problem) for r in of_folder] == [
        (r.key, r.row, r.picture, r.captions, r.columns, r.problem) for r in of_tar
    ]


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 64])
def test_a_tar_of_frames_with_one_key_is_read_in_parts(tmp_path, monkeypatch, chunk_size):
    monkeypatch.setattr("worker.sources.tar_shards.MEMBERS_OF_A_KEY", 5)
    monkeypatch.setattr("worker.sources.tar_shards.MAX_MEMBERS_OF_A_KEY", 7)
    members = []
    for frame in range(10):
        members += [(f"clip.{frame}.jpg", picture(frame)), (f"clip.{frame}.txt", b"%d" % frame)]
    write_tar(tmp_path / "t.tar", members)
    rows = read_all(tmp_path / "t.tar", chunk_size=chunk_size)
    assert [(row.caption, row.picture) for row in rows] == [
        (str(frame), picture(frame)) for frame in range(10)
    ]


def test_a_chunk_of_a_tar_is_entered_where_it_begins(tmp_path):
    names = [f"clip.{frame}.{ending}" for frame in range(4) for ending in ("jpg", "txt")]
    members = [(f"{n}.{ending}", b"x") for n in range(9) for ending in ("jpg", "txt")]
    shard = write_tar(tmp_path / "t.tar", [*members, *((name, b"y") for name in names)])
    ((_, rows),) = list_source(shard, root=tmp_path)
    starts = [row.offset for row in rows]
    assert starts == sorted(set(starts))
    for row in (4, 9, 12):
        span = Span(first_row=row, offset=starts[row])
        read = [found.row for found in tar_rows(shard, name="t.tar", span=span)]
        assert read == list(range(min(row, 9), 13))


def test_a_hard_link_is_the_picture_that_it_stands_for(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        add(tar, "a.jpg", ONE)
        add(tar, "a.txt", b"one")
        for name, to in (("b.jpg", "a.jpg"), ("b.txt", "./a.txt"), ("c.jpg", "gone.jpg")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, to
            tar.addfile(member)
        add(tar, "a.jpg", TWO)
    rows = read_all(tmp_path / "t.tar")
    assert [(row.key, row.picture, row.caption) for row in rows[:2]] == [
        ("a", ONE, "one"),
        ("b", ONE, "one"),
    ]
    assert rows[1].picture_offset == rows[0].picture_offset
    assert (rows[2].problem, rows[2].picture) == ("not_regular", None)
    assert "gone.jpg" in rows[2].detail
    assert rows[3].picture == TWO


def sparse_header(name: str, *, size: int, stored: int) -> bytes:
    """Return the header of an old GNU sparse member with one piece of `stored` bytes."""
    member = tarfile.TarInfo(name)
    member.size = stored
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[156:157] = tarfile.GNUTYPE_SPARSE
    for number in range(4):
        where, length = (0, stored) if number == 0 else (size, 0)
        block[386 + 24 * number : 410 + 24 * number] = b"%011o\0%011o\0" % (where, length)
    block[482:495] = b"\0%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


def test_a_sparse_member_is_a_row_with_its_reason(tmp_path):
    good = write_tar(tmp_path / "good.tar", [("b.jpg", ONE), ("b.txt", b"one")]).read_bytes()
    sparse = sparse_header("a.jpg", size=4096, stored=512) + bytes(512)
    (tmp_path / "t.tar").write_bytes(sparse + good)
    with tarfile.open(tmp_path / "t.tar") as tar:
        assert tar.next().issparse()
    first, second = read_all(tmp_path / "t.tar")
    assert (first.key, first.problem, first.picture) == ("a", "not_regular", None)
    assert "sparse" in first.detail
    assert second.picture == ONE


@pytest.mark.parametrize("kept_share", [0.99, 0.95, 0.5, 0.03])
def test_a_torn_shard_gives_its_whole_samples_and_a_failed_row(tmp_path, kept_share):
    write_shard(tmp_path / "00000.tar", CAPTIONS)
    (tmp_path / "00000.parquet").unlink()
    whole = (tmp_path / "00000.tar").read_bytes()
    with tarfile.open(tmp_path / "00000.tar") as tar:
        end = max(member.offset_data + member.size for member in tar)
    for stop in range(
        int(end * kept_share) // 512 * 512, min(end, int(end * kept_share) + 1800), 300
    ):
        (tmp_path / "00000.tar").write_bytes(whole[:stop])
        rows = read_all(tmp_path, chunk_size=5)
        complete = [row for row in rows if row.problem is None]
        assert [row.picture for row in complete] == [picture(n) for n in range(len(complete))]
        assert [row.caption for row in complete] == [*CAPTIONS[: len(complete)]]
        rest = [row.problem for row in rows[len(complete) :]]
        at_boundary = stop % 512 == 0
        assert rest in (
            [["torn_shard"], ["bad_shard"], []] if at_boundary else [["torn_shard"], ["bad_shard"]]
        )


def test_a_killed_img2dataset_leaves_its_whole_samples(tmp_path):
    write_shard(tmp_path / "00000.tar", CAPTIONS[:4])
    write_shard(tmp_path / "00001.tar", CAPTIONS[4:8], first_seed=50)
    (tmp_path / "00001.parquet").write_bytes(b"")
    torn = tmp_path / "00001.tar"
    with tarfile.open(torn) as tar:
        cut = tar.getmembers()[-3]
    torn.write_bytes(torn.read_bytes()[: cut.offset_data + cut.size // 2])
    rows = read_all(tmp_path)
    problems = [None] * 7 + ["torn_shard", "bad_shard"]
    assert [row.problem for row in rows] == problems
    assert "00001.parquet" in rows[-1].detail and "0 bytes" in rows[-1].detail


def header(name: str, **fields: object) -> bytes:
    member = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    return member.tobuf(tarfile.GNU_FORMAT)


def negative_size(name: str) -> bytes:
    block = bytearray(header(name))
    block[124:136] = (-512).to_bytes(12, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


DAMAGE = {
    "absurd size": header("b.jpg", size=2**80) + bytes(1024),
    "size past the end": header("b.jpg", size=10**12) + bytes(1024),
    "negative size": negative_size("b.jpg") + bytes(1024),
    "damaged header": b"\x01" * 512 + bytes(1024),
    "cut header": header("b.jpg", size=10)[:300],
    "absurd long name": header("././@LongLink", type=tarfile.GNUTYPE_LONGNAME, size=2**62),
    "members behind the end": bytes(1024) + header("b.jpg", size=10) + bytes(1024),
    "sparse map without end": header("x", type=tarfile.XHDTYPE, size=68)
    + b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n24 GNU.sparse.name=b.jpg\n".ljust(512, b"\0")
    + header("b.jpg", size=512)
    + b"9" * 512,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_tar_costs_what_lies_behind_the_damage(tmp_path, damage):
    content = write_tar(tmp_path / "in/0.tar", [("a.jpg", ONE), ("a.txt", b"one")]).read_bytes()
    with tarfile.open(tmp_path / "in/0.tar") as tar:
        last = tar.getmembers()[-1]
    end = last.offset_data + 512
    (tmp_path / "in/0.tar").write_bytes(content[:end] + damage)
    write_tar(tmp_path / "in/1.tar", [("c.jpg", TWO), ("c.txt", b"two")])
    rows = read_all(tmp_path / "in")
    assert [(row.picture, row.caption) for row in (rows[0], rows[-1])] == [
        (ONE, "one"),
        (TWO, "two"),
    ]
    (lost,) = rows[1:-1]
    assert lost.problem in ("bad_shard", "torn_shard") and "0.tar" in lost.detail


class _Counting(io.BytesIO):
    largest = 0

    def read(self, size: int | None = -1) -> bytes:
        self.largest = max(self.largest, self.getbuffer().nbytes if size in (-1, None) else size)
        return super().read(size)


@pytest.mark.parametrize(
    "kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE]
)
def test_a_long_header_is_refused_before_it_is_read(kind):
    from unspoken.errors import InvalidInput
    from unspoken.imaging.tar_members import MAX_HEADER_BYTES, iter_members

    long = header("x", type=kind, size=2 * MAX_HEADER_BYTES) + bytes(2 * MAX_HEADER_BYTES)
    stream = _Counting(long + header("a.jpg", size=0) + bytes(1024))
    with pytest.raises(InvalidInput, match="header of more than"):
        list(iter_members(stream))
    assert stream.largest <= MAX_HEADER_BYTES


@pytest.mark.parametrize("name", ["00001.tar.gz", "00001.tgz", "00001.tar"])
def test_a_gzipped_tar_says_that_it_is_gzipped(tmp_path, name):
    write_tar(tmp_path / "00000.tar", [("a.jpg", ONE), ("a.txt", b"one")])
    with tarfile.open(tmp_path / name, "w:gz") as tar:
        add(tar, "b.jpg", TWO)
    good, packed = read_all(tmp_path)
    assert (good.caption, packed.problem) == ("one", "bad_shard")
    assert "gzip" in packed.detail and "gunzip" in packed.detail


def test_columns_beside_that_are_not_text_count_as_absent(tmp_path):
    write_shard(tmp_path / "00000.tar", CAPTIONS[:2])
    table = pa.table(
        {
            "key": ["0000000000", "0000000001"],
            "caption": pa.array([b"caf\xe9", b"fine"], pa.binary()).view(pa.string()),
            "punsafe": [0.5, 0.25],
        }
    )
    pq.write_table(table, tmp_path / "00000.parquet")
    rows = read_all(tmp_path)
    assert [(row.caption, row.problem) for row in rows] == [(each, None) for each in CAPTIONS[:2]]
    assert [row.columns["punsafe"] for row in rows] == [0.5, 0.25]


def test_a_caption_beside_that_is_not_text_and_the_only_one_is_a_bad_row(tmp_path):
    write_tar(tmp_path / "0.tar", [("a.jpg", ONE), ("b.jpg", TWO)])
    caption = pa.array([b"caf\xe9", b"fine"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"key": ["a", "b"], "caption": caption}), tmp_path / "0.parquet")
    first, second = read_all(tmp_path)
    assert (first.problem, second.problem) == ("bad_row", None)
    assert "caption" in first.detail and second.caption == "fine"
