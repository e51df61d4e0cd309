"""Parquet tables: bad cells and damaged row groups lose only their rows; memory is bounded."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.worker.source_files import picture, write_pictures
from tests.worker.sources.test_tar_shards import read_all
from unspoken.errors import InvalidInput
from unspoken.imaging.images import MAX_BYTES
from worker.sources.intake import list_source
from worker.sources.tables.parquet_table import MAX_CELL_BYTES


def latin1(*texts: str) -> pa.Array:
    return pa.array([text.encode("latin-1") for text in texts], pa.binary()).view(pa.string())


@pytest.mark.parametrize("chunk_size", [1, 3])
def test_a_cell_that_is_not_utf_8_costs_its_row(tmp_path, chunk_size):
    names = write_pictures(tmp_path, 3)
    table = pa.table({"path": names, "text": latin1("a dog", "a café", "a cat")})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    rows = read_all(tmp_path / "t.parquet", chunk_size=chunk_size)
    assert [(row.caption, row.problem) for row in rows] == [
        ("a dog", None),
        ("", "bad_row"),
        ("a cat", None),
    ]
    assert rows[1].detail == "row 1: the column 'text' is not UTF-8"
    assert rows[2].picture == picture(2)


def test_a_damaged_row_group_costs_its_rows(tmp_path):
    names = write_pictures(tmp_path, 9)
    table = pa.table({"path": names, "text": [f"a dog number {n}" for n in range(9)]})
    file = tmp_path / "t.parquet"
    pq.write_table(table, file, row_group_size=3, compression="zstd", use_dictionary=False)
    column = pq.read_metadata(file).row_group(1).column(1)
    content = bytearray(file.read_bytes())
    start = column.data_page_offset
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    file.write_bytes(content)
    rows = read_all(file, chunk_size=2)
    assert [row.problem for row in rows] == [None] * 3 + ["bad_row"] * 3 + [None] * 3
    assert "row group 1" in rows[3].detail
    assert [row.caption for row in rows[6:]] == [f"a dog number {n}" for n in range(6, 9)]


def test_a_long_cell_costs_its_row(tmp_path):
    names = write_pictures(tmp_path, 2)
    table = pa.table({"path": names, "text": ["x" * (MAX_CELL_BYTES + 1), "a dog"]})
    pq.write_table(table, tmp_path / "t.parquet")
    rows = read_all(tmp_path / "t.parquet")
    assert [(row.caption, row.problem) for row in rows] == [("", "bad_row"), ("a dog", None)]


def test_lists_of_captions_and_bytes_of_text_are_read(tmp_path):
    names = write_pictures(tmp_path, 1)
    table = pa.table(
        {"file_name": pa.array([names[0].encode()]), "captions": [["a dog", "a brown dog"]]}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    (row,) = read_all(tmp_path / "t.parquet")
    assert (row.picture, row.captions) == (picture(0), ("a dog", "a brown dog"))


@pytest.mark.parametrize("chunk_size", [1, 4, 64])
@pytest.mark.parametrize("kind", ["struct", "image", "jpg"])
def test_pictures_in_a_table_are_read_from_it(tmp_path, kind, chunk_size):
    encoded = [picture(seed) for seed in range(9)]
    encoded[4] = None
    encoded[5] = b"\xff" * (MAX_BYTES + 1)
    column = "jpg" if kind == "jpg" else "image"
    cells = encoded
    if kind == "struct":
        cells = [{"bytes": each, "path": f"p/{n}.jpg"} for n, each in enumerate(encoded)]
    table = pa.table({column: cells, "text": [f"a dog number {n}" for n in range(9)]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=4)
    rows = read_all(tmp_path / "t.parquet", chunk_size=chunk_size)
    assert [row.caption for row in rows] == [f"a dog number {n}" for n in range(9)]
    problems = {4: "no_picture", 5: "picture_too_large"}
    assert [row.problem for row in rows] == [problems.get(n) for n in range(9)]
    assert [row.picture for row in rows if row.problem is None] == [
        each for n, each in enumerate(encoded) if n not in problems
    ]
    assert rows[3].key == ("3" if kind == "struct" else f"{column}-000003")


def test_a_listing_without_pictures_is_that_of_the_plan(tmp_path):
    pq.write_table(
        pa.table({"image": [picture(1), None], "text": ["a dog"] * 2}), tmp_path / "t.parquet"
    )

    def listed(is_duplicate):
        source = list_source(tmp_path / "t.parquet", root=tmp_path, is_duplicate=is_duplicate)
        return [(row.row, row.digest) for _, rows in source for row in rows]

    assert listed(None) == listed(lambda row: False)


def repeat(file: Path, value: str | None, count: int) -> None:
    """Write a table of `count` equal rows, in a few hundred bytes."""
    if value is None:
        column = pa.nulls(count, pa.string())
    else:
        indices = pa.array([0] * count, pa.int32())
        column = pa.DictionaryArray.from_arrays(indices, pa.array([value], pa.string()))
    table = pa.table({"path": column, "caption": column})
    pq.write_table(
        table,
        file,
        compression="zstd",
        row_group_size=count,
        store_schema=False,
        dictionary_pagesize_limit=1 << 30,
    )


def write_long_list(file: Path, count: int) -> None:
    """Write a table of one row whose list of captions has `count` nulls."""
    lists = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), pa.nulls(count, pa.string()))
    pq.write_table(pa.table({"path": ["0.jpg"], "captions": lists}), file, compression="zstd")


def test_a_list_of_millions_of_captions_is_refused(tmp_path):
    write_long_list(tmp_path / "t.parquet", 5_000_000)
    with pytest.raises(InvalidInput, match="announces 5000000 values"):
        list(list_source(tmp_path / "t.parquet", root=tmp_path))


def test_lists_of_one_long_caption_are_refused(tmp_path):
    write_pictures(tmp_path, 1)
    indices = pa.array([0] * 10_000, pa.int32())
    captions = pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 1_000_000]))
    lists = pa.ListArray.from_arrays(pa.array([0, 10_000], pa.int32()), captions)
    table = pa.table({"path": ["0.jpg"], "captions": lists})
    pq.write_table(table, tmp_path / "t.parquet", compression="zstd", store_schema=False)
    with pytest.raises(InvalidInput, match="gigabytes"):
        list(list_source(tmp_path / "t.parquet", root=tmp_path))


@pytest.mark.parametrize("place", range(0, 100, 7))
def test_damaged_metadata_ends_no_process(tmp_path, place):
    names = write_pictures(tmp_path, 2)
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"path": names, "captions": [["a dog"], ["a cat", "a cow"]]}), file)
    content = bytearray(file.read_bytes())
    size = int.from_bytes(content[-8:-4], "little")
    content[len(content) - 8 - size * (100 - place) // 100] ^= 0x55
    file.write_bytes(content)
    try:
        rows = read_all(file)
    except InvalidInput:
        return
    assert all(row.problem in (None, "bad_row", "no_picture", "bad_shard") for row in rows)


BOMBS = {
    "rows without a value": (None, 3_000_000),
    "one long value": ("x" * 16_000_000, 50_000),
    "one value of a million bytes": ("x" * 1_000_000, 2_000),
}


@pytest.mark.parametrize(("value", "count"), BOMBS.values(), ids=BOMBS)
def test_a_small_parquet_file_takes_little_memory(tmp_path, value, count):
    repeat(tmp_path / "t.parquet", value, count)
    assert (tmp_path / "t.parquet").stat().st_size < 20_000
    script = """
        import resource, sys
        from pathlib import Path
        from unspoken.errors import InvalidInput
        from worker.sources.intake import list_source

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

        before, file = peak(), Path(sys.argv[1])
        try:
            for _, rows in list_source(file, root=file.parent):
                print(sum(1 for _ in rows), "rows")
        except InvalidInput as error:
            print(error)
        print(peak() - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "t.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout.split()[-1]) < 400, done.stdout


def test_a_table_that_announces_too_many_rows_is_refused(tmp_path):
    repeat(tmp_path / "t.parquet", None, 3_000_000)
    with pytest.raises(InvalidInput, match="announces 3000000 rows"):
        list(list_source(tmp_path / "t.parquet", root=tmp_path))
