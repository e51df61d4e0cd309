"""Real-world CSV: other delimiters and encodings, broken quotes; no row is lost or wrong."""

import csv
import json

import pytest

from tests.worker.source_files import picture, write_pictures
from unspoken.errors import InvalidInput
from unspoken.runs.plan import LabelConfig, make_plan
from unspoken.wire.label_options import LabelOptions
from worker.sources.intake import list_source, read_chunk


def read_all(source, *, chunk_size=5):
    root = source.parent
    plan = make_plan(
        "run",
        list_source(source, root=root),
        config=LabelConfig(named_threshold=0.3, options=LabelOptions(chunk_size=chunk_size)),
        models={},
    )
    return [row for chunk in plan.chunks for row in read_chunk(chunk, root=root)]


def write(table, lines, *, encoding="utf-8", newline="\n"):
    table.write_bytes((newline.join(lines) + newline).encode(encoding))
    return table


def captions(count):
    return [f"a picture number {index} of a dog" for index in range(count)]


def test_an_unclosed_quote_costs_its_own_row_and_no_other(tmp_path):
    write_pictures(tmp_path, 40)
    lines = [f"{index}.jpg,{caption}" for index, caption in enumerate(captions(40))]
    lines[5] = '5.jpg,"a dog without an end'
    lines[20] = '20.jpg,"a dog, quoted as it should be"'
    rows = read_all(write(tmp_path / "t.csv", ["image,caption", *lines]), chunk_size=4)
    assert [row.row for row in rows] == list(range(40))
    assert [row.row for row in rows if row.problem] == [5]
    assert rows[5].problem == "bad_row"
    assert rows[5].detail == (
        "line 7 has a double quote that is not closed at the end of its column"
    )
    assert rows[20].caption == "a dog, quoted as it should be"
    assert [row.picture for row in rows[6:]] == [picture(index) for index in range(6, 40)]


@pytest.mark.parametrize("closing", ['7.jpg,a dog "', '7.jpg,a dog",more'])
def test_an_unclosed_quote_that_a_later_row_closes_swallows_none_between(tmp_path, closing):
    write_pictures(tmp_path, 10)
    lines = [f"{index}.jpg,{caption}" for index, caption in enumerate(captions(10))]
    lines[5], lines[7] = '5.jpg,"a dog without an end', closing
    rows = read_all(write(tmp_path / "t.csv", ["image,caption", *lines]))
    assert len(rows) == 10
    assert {row.row for row in rows if row.problem} <= {5, 7}
    assert [row.caption for row in rows[8:]] == captions(10)[8:]


def test_a_caption_with_an_unquoted_comma_is_a_bad_row_with_its_line(tmp_path):
    write_pictures(tmp_path, 3)
    lines = ["image,caption", "0.jpg,a red car, parked", "1.jpg,a dog", "2.jpg"]
    first, second, third = read_all(write(tmp_path / "t.csv", lines))
    assert (first.problem, third.problem) == ("bad_row", "bad_row")
    assert first.detail.startswith("line 2 has 3 columns, the table has 2")
    assert third.detail.startswith("line 4 has 1 columns")
    assert (second.problem, second.caption) == (None, "a dog")


def test_quotes_within_a_text_are_part_of_it(tmp_path):
    write_pictures(tmp_path, 1)
    (row,) = read_all(write(tmp_path / "t.csv", ["image,caption", '0.jpg,a 5" ruler and "a pen']))
    assert row.caption == 'a 5" ruler and "a pen'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("table", ["t.csv", "t.jsonl"])
def test_every_common_encoding_is_read(tmp_path, table, encoding, newline):
    names = write_pictures(tmp_path, 9)
    texts = [f"Ein grünes Auto vor dem Café {index}" for index in range(9)]
    if table == "t.csv":
        lines = ["image,caption", *(f"{n},{text}" for n, text in zip(names, texts, strict=True))]
    else:
        both = [{"image": n, "caption": text} for n, text in zip(names, texts, strict=True)]
        lines = [json.dumps(each, ensure_ascii=False) for each in both]
    rows = read_all(write(tmp_path / table, lines, encoding=encoding, newline=newline))
    assert [row.caption for row in rows] == texts
    assert [row.picture for row in rows] == [picture(index) for index in range(9)]


def test_a_line_in_another_encoding_is_a_bad_row(tmp_path):
    write_pictures(tmp_path, 3)
    content = "image,caption\n0.jpg,ein Café\n".encode() + b"1.jpg,ein Caf\xe9\n2.jpg,ein Hund\n"
    (tmp_path / "t.csv").write_bytes(content)
    rows = read_all(tmp_path / "t.csv")
    assert [row.problem for row in rows] == [None, "bad_row", None]
    assert rows[1].detail == "line 3 is not utf-8 text: save the file as UTF-8"


def test_an_encoding_that_is_not_known_makes_no_nonsense(tmp_path):
    write_pictures(tmp_path, 2)
    lines = ["image,caption", "0.jpg,一只狗在雪地里奔跑", "1.jpg,两只猫坐在红色的沙发上"]
    with pytest.raises(InvalidInput, match="line 2 is not utf-8 text: save the file as UTF-8"):
        read_all(write(tmp_path / "t.csv", lines, encoding="gb18030"))


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_the_delimiter_is_found(tmp_path, delimiter):
    write_pictures(tmp_path, 3)
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["image", "caption"])
        for index in range(3):
            writer.writerow([f"{index}.jpg", 'a "dog", a cat; a | and a\ttab'])
    assert {row.caption for row in read_all(tmp_path / "t.csv")} == {
        'a "dog", a cat; a | and a\ttab'
    }


def test_tables_with_tabs_need_no_quotes(tmp_path):
    write_pictures(tmp_path, 3)
    lines = ["caption\timage", '"a dog, it says\t0.jpg', 'a cat\'s "toy"\t1.jpg', "x\ty\t2.jpg"]
    rows = read_all(write(tmp_path / "t.tsv", lines))
    assert [row.caption for row in rows] == ['"a dog, it says', 'a cat\'s "toy"', ""]
    assert rows[2].detail.startswith("line 4 has 3 columns")


def test_excels_first_line_names_the_delimiter(tmp_path):
    write_pictures(tmp_path, 1)
    (row,) = read_all(write(tmp_path / "t.csv", ["sep=;", "image;caption", "0.jpg;a dog, a cat"]))
    assert row.caption == "a dog, a cat"


def test_two_columns_need_no_header(tmp_path):
    write_pictures(tmp_path, 2)
    rows = read_all(write(tmp_path / "t.csv", ["0.jpg,a dog", "1.jpg,a cat"]))
    assert [(row.member, row.caption) for row in rows] == [("0.jpg", "a dog"), ("1.jpg", "a cat")]


def test_a_table_of_urls_says_that_nothing_was_downloaded(tmp_path):
    lines = ["a dog on a beach\thttp://x.invalid/0.jpg", "a cat\thttps://x.invalid/1.jpg"]
    rows = read_all(write(tmp_path / "cc3m.tsv", lines))
    assert [row.caption for row in rows] == ["a dog on a beach", "a cat"]
    assert [row.problem for row in rows] == ["not_downloaded"] * 2


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n\n", b"image,caption\n"])
@pytest.mark.parametrize("table", ["t.csv", "t.tsv", "t.jsonl"])
def test_a_table_without_rows_is_refused(tmp_path, table, content):
    (tmp_path / table).write_bytes(content if table != "t.jsonl" else content[:3])
    with pytest.raises(InvalidInput, match=r"empty|no row"):
        read_all(tmp_path / table)


@pytest.mark.parametrize("table", ["t.csv", "t.jsonl"])
def test_a_line_that_is_too_long_is_one_bad_row(tmp_path, table):
    write_pictures(tmp_path, 2)
    long = "long " * 700_000
    if table == "t.csv":
        lines = ["image,caption", "0.jpg,a dog", f"1.jpg,{long}", "1.jpg,a cat"]
    else:
        texts = [("0.jpg", "a dog"), ("1.jpg", long), ("1.jpg", "a cat")]
        lines = [json.dumps({"image": name, "caption": text}) for name, text in texts]
    rows = read_all(write(tmp_path / table, lines), chunk_size=1)
    assert [row.problem for row in rows] == [None, "bad_row", None]
    number = 3 if table == "t.csv" else 2
    assert rows[1].detail == f"line {number} is longer than 1048576 bytes"
    assert rows[2].caption == "a cat"
