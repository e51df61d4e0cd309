import gzip
import json
import tarfile
from pathlib import Path

import pytest

from tests.worker.source_files import CAPTIONS, add, picture, write_shard
from unspoken.errors import Conflict, InvalidInput
from unspoken.runs.chunks import Chunk
from unspoken.runs.plan import LabelConfig, make_plan, write_plan
from unspoken.wire.label_options import LabelOptions
from worker.sources.intake import check_chunk, list_source, read_chunk


def plan_of(path, root, *, chunk_size=5):
    config = LabelConfig(named_threshold=0.3, options=LabelOptions(chunk_size=chunk_size))
    return make_plan("run", list_source(path, root=root), config=config, models={})


def test_every_row_of_every_shard_is_read_once_in_order(tmp_path):
    write_shard(tmp_path / "in/00000.tar", CAPTIONS)
    write_shard(tmp_path / "in/00001.tar", CAPTIONS[:3], first_seed=50)
    plan = plan_of(tmp_path / "in", tmp_path)
    rows = [row for chunk in plan.chunks for row in read_chunk(chunk, root=tmp_path)]
    assert [len(chunk.rows) for chunk in plan.chunks] == [5, 5, 2, 3]
    assert [row.caption for row in rows] == [*CAPTIONS, *CAPTIONS[:3]]
    assert rows[7].picture == picture(7)
    assert rows[7].key == "0000000007"
    assert rows[0].columns["language"] == "en"


def written(run_dir, plan):
    run_dir.mkdir()
    write_plan(run_dir, plan)
    return {path.name: path.read_bytes() for path in run_dir.iterdir()}


def test_the_plan_is_the_same_to_the_byte_each_time(tmp_path):
    write_shard(tmp_path / "in/00000.tar", CAPTIONS)
    first, second = (written(tmp_path / str(i), plan_of(tmp_path / "in", tmp_path)) for i in (1, 2))
    assert first == second


def test_a_row_that_changed_after_planning_says_so_and_its_neighbours_are_read(tmp_path):
    write_shard(tmp_path / "in/00000.tar", CAPTIONS)
    chunk = plan_of(tmp_path / "in", tmp_path).chunks[0]
    write_shard(tmp_path / "in/00000.tar", ["Something else entirely", *CAPTIONS[1:]])
    problems = [row.problem for row in read_chunk(chunk, root=tmp_path)]
    assert problems == ["source_changed", None, None, None, None]
    with pytest.raises(Conflict, match="1 of 5 rows"):
        check_chunk(chunk, root=tmp_path)


def test_links_folders_and_wandering_names_in_a_tar_are_never_followed(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(picture(1))
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in/00000.tar", "w") as tar:
        for kind, name in ((tarfile.SYMTYPE, "a.jpg"), (tarfile.LNKTYPE, "b.jpg")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "../secret.jpg"
            tar.addfile(member)
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        add(tar, "../../escape.jpg", picture(2))
        add(tar, "../../escape.txt", b"An escaping caption")
    plan = plan_of(tmp_path / "in", tmp_path)
    rows = read_chunk(plan.chunks[0], root=tmp_path)
    assert [(row.key, row.problem) for row in rows] == [
        ("a", "not_regular"),
        ("b", "not_regular"),
        ("../../escape", None),
    ]
    assert [row.picture for row in rows] == [None, None, picture(2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "secret.jpg"]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_table_reads_pictures_beside_it_and_none_outside(tmp_path, ending):
    root = tmp_path / "data"
    (root / "pics").mkdir(parents=True)
    (root / "pics/a.jpg").write_bytes(picture(1))
    (tmp_path / "outside.jpg").write_bytes(picture(2))
    (root / "pics/link.jpg").symlink_to(tmp_path / "outside.jpg")
    paths = ["pics/a.jpg", "../outside.jpg", "pics/link.jpg", "pics/none.jpg"]
    table = root / f"table.{ending}"
    if ending == "csv":
        table.write_text("path,caption\n" + "".join(f"{path},A brown dog\n" for path in paths))
    else:
        lines = [json.dumps({"path": path, "caption": "A brown dog"}) for path in paths]
        table.write_text("\n".join(lines))
    (chunk,) = plan_of(table, root).chunks
    rows = read_chunk(chunk, root=root)
    assert [row.problem for row in rows] == [
        None,
        "outside_data_folder",
        "outside_data_folder",
        "no_picture",
    ]
    assert rows[0].picture == picture(1) and rows[1].picture is None


def test_a_table_without_the_columns_says_which_it_needs(tmp_path):
    (tmp_path / "t.csv").write_text("name,words\na,b\n")
    with pytest.raises(InvalidInput, match="picture paths"):
        plan_of(tmp_path / "t.csv", tmp_path)


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_a_torn_or_foreign_tar_is_invalid_input(tmp_path, content):
    (tmp_path / "00000.tar").write_bytes(content)
    with pytest.raises(InvalidInput):
        plan_of(tmp_path, tmp_path)


BROKEN_TARS = {
    "empty": b"",
    "foreign": b"no tar at all" * 100,
    "cut header": b"0" * 300,
    "gzip": gzip.compress(b"a tar, gzipped" * 100),
}


@pytest.mark.parametrize("content", BROKEN_TARS.values(), ids=BROKEN_TARS)
def test_a_shard_that_cannot_be_read_is_one_failed_row_and_the_others_are_read(tmp_path, content):
    write_shard(tmp_path / "in/00000.tar", CAPTIONS[:3])
    (tmp_path / "in/00001.tar").write_bytes(content)
    write_shard(tmp_path / "in/00002.tar", CAPTIONS[3:5], first_seed=50)
    plan = plan_of(tmp_path / "in", tmp_path)
    rows = [row for chunk in plan.chunks for row in read_chunk(chunk, root=tmp_path)]
    assert plan.num_rows == len(rows) == 6
    assert [row.problem for row in rows] == [None, None, None, "bad_shard", None, None]
    assert (rows[3].key, rows[3].row) == ("in/00001.tar", 0)
    assert "in/00001.tar" in rows[3].detail


def test_a_shard_without_permission_is_one_failed_row(tmp_path, monkeypatch):
    write_shard(tmp_path / "00000.tar", CAPTIONS[:2])
    write_shard(tmp_path / "00001.tar", CAPTIONS[2:4])
    open_path = Path.open

    def refuse(path, *args, **kwargs):
        if path.name == "00000.tar":
            raise PermissionError(13, "Permission denied", str(path))
        return open_path(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, who may all
    plan = plan_of(tmp_path, tmp_path)
    rows = [row for chunk in plan.chunks for row in read_chunk(chunk, root=tmp_path)]
    assert [row.problem for row in rows] == ["bad_shard", None, None]


def test_a_chunk_that_names_a_file_outside_the_root_is_refused(tmp_path):
    chunk = Chunk(id=0, source="../x.tar", ranges=((0, 1),), row_digests="0" * 24)
    (row,) = read_chunk(chunk, root=tmp_path)
    assert (row.problem, row.picture) == ("source_changed", None)
