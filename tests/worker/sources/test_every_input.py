"""A run over all kinds of inputs ends `done`, and every input is counted once."""

import gzip
import io
import json
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

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
from tests.worker.stage import Stage
from unspoken.runs.store import create_run
from unspoken.wire.runs import RunRequest


class Mixed:
    """A source under construction: each input has its own picture and an expected result."""

    def __init__(self, folder):
        self.folder = folder
        self.num_labelled = 0
        self.others = {}
        self._seed = 1000

    def picture(self, kind="JPEG"):
        self._seed += 1
        encoded = picture(self._seed)
        if kind != "JPEG":
            buffer = io.BytesIO()
            Image.open(io.BytesIO(encoded)).save(buffer, kind)
            encoded = buffer.getvalue()
        return encoded

    def write(self, name, content):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def tar(self, name, members):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for member, content in members:
                add(tar, member, content)
        return path

    def good(self, count=1):
        self.num_labelled += count

    def bad(self, reason, count=1):
        self.others[reason] = self.others.get(reason, 0) + count


def write_tars(mixed):
    write_shard(mixed.folder / "00000.tar", CAPTIONS[:4], first_seed=100)
    mixed.good(4)
    # One folder per sample, as webdataset groups them, and a picture without a caption.
    members = [(f"s{n}/rgb.{kind}", content) for n in range(2) for kind, content in
               (("jpg", mixed.picture()), ("txt", CAPTIONS[n].encode()))]  # fmt: skip
    mixed.tar("samples.tar", [*members, ("s2/rgb.jpg", mixed.picture())])
    mixed.good(2)
    mixed.bad("caption_empty")
    twice = [("a.jpg", mixed.picture()), ("a.txt", b"A dog runs fast")] * 2
    mixed.tar("repeated.tar", twice)
    mixed.good()
    mixed.bad("repeated_member")
    mixed.tar(
        "second.tar",
        [
            *[("a.jpg", mixed.picture()), ("a.png", mixed.picture("PNG"))],
            *[("a.txt", b"A cat sleeps here"), ("b.txt", b"A cow without a picture")],
        ],
    )
    mixed.good()
    mixed.bad("second_picture")
    mixed.bad("no_picture")
    linked = mixed.tar("linked.tar", [("a.jpg", mixed.picture()), ("b.txt", b"A cow in a field")])
    with tarfile.open(linked, "a") as tar:
        for name, to, kind in (
            ("b.jpg", "a.jpg", tarfile.LNKTYPE),
            ("c.jpg", "../secret.jpg", tarfile.SYMTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, to
            tar.addfile(member)
    mixed.bad("caption_empty")
    mixed.good()
    mixed.bad("not_regular")
    # Files that a killed img2dataset leaves.
    whole = [("a.jpg", mixed.picture()), ("a.txt", b"A tree on a hill")]
    torn = mixed.tar("torn.tar", [*whole, ("b.jpg", mixed.picture())])
    with tarfile.open(torn) as tar:
        end = tar.getmember("b.jpg").offset_data + 100
    torn.write_bytes(torn.read_bytes()[:end])
    mixed.write("torn.parquet", b"")
    mixed.write("empty.tar", b"")
    mixed.write("packed.tar", gzip.compress(b"a tar" * 1000))


def write_folders(mixed):
    write_folder(mixed.folder / "dataset", CAPTIONS[4:7], first_seed=200)
    mixed.good(3)
    for name, beside in (
        *[("IMG_1.JPG", "IMG_1.TXT"), ("two.jpeg", "two.caption"), ("3.jpg", "3.jpg.txt")],
        *[("4.bmp", "4.txt"), ("5.gif", "5.txt"), ("6.tiff", "6.txt"), ("7.avif", "7.txt")],
        *[("8.jfif", "8.txt"), ("9.webp", "9.json")],
    ):
        kinds = {"bmp": "BMP", "gif": "GIF", "tiff": "TIFF", "avif": "AVIF", "webp": "WEBP"}
        mixed.write(f"loose/{name}", mixed.picture(kinds.get(name.partition(".")[2], "JPEG")))
        text = "A red car waits here"
        mixed.write(
            f"loose/{beside}", json.dumps({"caption": text}) if beside.endswith("json") else text
        )
        mixed.good()
    for number, encoding in enumerate(("utf-8-sig", "utf-16", "latin-1")):
        mixed.write(f"texts/{number}.jpg", mixed.picture())
        mixed.write(f"texts/{number}.txt", "A green car at the Café".encode(encoding))
        mixed.good()
    mixed.write("odd/phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    mixed.write("odd/phone.txt", "A man with a phone")
    mixed.bad("undecodable")
    mixed.write("odd/damaged.jpg", mixed.picture()[:500])
    mixed.write("odd/damaged.txt", "A man with a phone")
    mixed.bad("undecodable")
    mixed.write("odd/waits.jpg", mixed.picture())
    os.mkfifo(mixed.folder / "odd/waits.txt")
    mixed.bad("unreadable")
    mixed.write("odd/alone.txt", "A picture that is not there")
    mixed.bad("no_picture")
    (mixed.folder / "odd/linked.jpg").symlink_to("../../../secret.jpg")
    (mixed.folder / "odd/away").symlink_to("../../..")
    mixed.bad("outside_data_folder", 2)
    mixed.write("odd/dots.jpg", mixed.picture())
    mixed.write("odd/dots.txt", "...")
    mixed.bad("caption_empty")
    mixed.write("texts/chinese.jpg", mixed.picture())
    mixed.write("texts/chinese.txt", "一只狗在雪地里奔跑")
    mixed.good()
    write_pictures(mixed.folder / "copies", 1)
    mixed.write("copies/0.txt", "A dog runs fast")
    mixed.good()
    mixed.write("copies/same.jpg", picture(0))
    mixed.write("copies/same.txt", "A dog runs fast")
    mixed.bad("duplicate")
    mixed.write("imagefolder/a.jpg", mixed.picture())
    lines = [{"file_name": "a.jpg", "text": "A blue boat on a lake"}, {"file_name": "b.jpg"}]
    mixed.write("imagefolder/metadata.jsonl", "\n".join([*map(json.dumps, lines), "{"]))
    mixed.good()
    mixed.bad("no_picture")
    mixed.bad("bad_row")


def check(stage, mixed, run_id="r"):
    status = stage.tick(4, run_id=run_id)
    assert status.state == "done", status.message
    assert status.total == status.labelled + sum(status.dropped.values()) + sum(
        status.failed.values()
    )
    rows = stage.rows(run_id)
    assert len(rows) == status.total
    assert all(row.reason and row.detail for row in rows if row.status != "labelled")
    assert {**status.dropped, **status.failed} == mixed.others
    assert status.labelled == mixed.num_labelled
    assert len({(row.source_shard, row.source_row) for row in rows}) == len(rows)


def test_a_folder_of_every_kind_ends_done_with_every_input_counted(tmp_path):
    stage = Stage(tmp_path)
    (tmp_path / "secret.jpg").write_bytes(picture(1))
    (stage.data_dir / "in/00000.tar").unlink()
    (stage.data_dir / "in/00000.parquet").unlink()
    mixed = Mixed(stage.data_dir / "in")
    write_tars(mixed)
    write_folders(mixed)
    # torn.tar gives one whole row and the one at the tear; empty and packed tars, and the parquet
    # without content, are a failed row each.
    mixed.good()
    mixed.bad("torn_shard")
    mixed.bad("bad_shard", 3)
    stage.create()
    check(stage, mixed)


def test_tables_of_every_kind_end_done_with_every_input_counted(tmp_path):
    stage = Stage(tmp_path)
    folder = stage.data_dir / "tables"
    names = write_pictures(folder, 8)
    lines = [
        *["image|caption", "0.jpg|A red car on a road", "0.jpg|A car that is red"],
        *["1.jpg|A cow | a dog", "lost.jpg|A dog runs fast", "2.jpg|A cat sleeps here"],
    ]
    (folder / "bars.csv").write_text("\n".join(lines), encoding="utf-16")
    lines = [
        *["image,caption", "0.jpg,A red car on a road", '1.jpg,"A cow without an end'],
        *[
            "2.jpg,A cow, a dog",
            "3.jpg,A cat sleeps here",
            "4.jpg,Ein grünes Auto hier\xff",
            "5.jpg,x",
        ],
    ]
    (folder / "broken.csv").write_bytes("\n".join(lines).encode("latin-1"))
    rows = [{"image": name, "caption": [CAPTIONS[i], CAPTIONS[-1]]} for i, name in enumerate(names)]
    (folder / "lists.jsonl").write_text("\n".join([*map(json.dumps, rows), "{", "x" * 2_000_000]))
    write_table(folder / "flat.parquet", [{"image": n, "text": CAPTIONS[0]} for n in names])
    cells = pa.array([b"A dog runs fast", "Un café noir ici".encode("latin-1")], pa.binary())
    latin = pa.table({"image": names[:2], "caption": cells.view(pa.string())})
    pq.write_table(latin, folder / "latin.parquet")
    held = [{"bytes": picture(number), "path": None} for number in range(3)]
    texts = {"image": held, "caption": list(CAPTIONS[:3])}
    pq.write_table(pa.table(texts), folder / "held.parquet")
    write_coco(folder / "coco.json", [[text, CAPTIONS[-1]] for text in CAPTIONS[:10]])
    (folder / "urls.tsv").write_text("A dog runs fast\thttp://x.invalid/0.jpg\n")
    expected = {
        "bars.csv": (2, {"bad_row": 1, "no_picture": 1}),
        "broken.csv": (3, {"bad_row": 2, "caption_too_short": 1}),
        "lists.jsonl": (8, {"bad_row": 2}),
        "flat.parquet": (8, {}),
        "latin.parquet": (1, {"bad_row": 1}),
        "held.parquet": (3, {}),
        "coco.json": (8, {"no_picture": 2}),
        "urls.tsv": (0, {"not_downloaded": 1}),
    }
    for name, (num_labelled, others) in expected.items():
        mixed = Mixed(folder)
        mixed.num_labelled, mixed.others = num_labelled, others
        request = RunRequest(source=f"tables/{name}", run_id=name.replace(".", "-"), chunk_size=3)
        create_run(stage.data_dir, stage.runs_dir, request)
        check(stage, mixed, run_id=request.run_id)
