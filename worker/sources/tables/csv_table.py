"""Reads CSV and similar tables, strictly: columns separated by commas, tabs, semicolons or bars.

A row must have the header's number of columns. If it has not, or a quote is not closed, only that
line is bad and reading continues with the next line. An unclosed quote would otherwise swallow the
rows after it. A caption in quotes may span several lines.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from unspoken.errors import InvalidInput
from worker.sources.source_file import PICTURE_ENDINGS
from worker.sources.tables.columns import Record, known_column
from worker.sources.tables.line_file import Line, LineFile

DELIMITERS = (",", "\t", ";", "|")
UNQUOTED = ("\t", "|")
"""Delimiters of tables that are often written without any quoting."""
MAX_LINES_OF_A_ROW = 100

_OPEN_QUOTE = "has a double quote that is not closed at the end of its column"
_URL = re.compile(r"https?://\S+$")
_PICTURE = re.compile(rf"[^\n]+\.(?:{'|'.join(PICTURE_ENDINGS)})(?:#\d+)?\s*$", re.IGNORECASE)


class _Form(NamedTuple):
    """Format of a file: its delimiter, its columns, and the byte offset of its first row."""

    delimiter: str
    columns: list[str]
    first_row: int


def csv_records(file: Path, *, offset: int) -> Iterator[Record]:
    """Yield the rows from a byte offset on. Raises InvalidInput for a file without a header."""
    with LineFile(file) as lines:
        form = _find_form(lines, file.name)
        lines.seek(max(offset, form.first_row))
        while (line := lines.read()) is not None:
            if line.problem or line.text.strip():
                yield _record(line, lines, form)


# ---- format of the file ----------------------------------------------------------------------


def _find_form(lines: LineFile, name: str) -> _Form:
    header = next((line for line in lines if line.problem or line.text.strip()), None)
    if header is None:
        raise InvalidInput(f"{name} is empty")
    if header.problem:
        raise InvalidInput(f"{name} has no header that can be read: line 1 {header.problem}")
    if (told := re.fullmatch(r"sep=(.)\s*", header.text)) is not None:  # Excel's own first line
        header = lines.read() or Line("", lines.offset)
        return _Form(told[1], _split(header.text, told[1]), lines.offset)
    forms = [
        _Form(delimiter, _split(header.text, delimiter), lines.offset) for delimiter in DELIMITERS
    ]
    best = max(forms, key=lambda form: (_num_known(form.columns), len(form.columns)))
    if _num_known(best.columns):
        return best
    bare = (_bare_form(form, header.offset) for form in forms)
    return next((form for form in bare if form is not None), best)


def _num_known(columns: list[str]) -> int:
    return len({known_column(column) for column in columns} - {None})


def _bare_form(form: _Form, start: int) -> _Form | None:
    """Return the form of a file without a header: a picture or a URL, and a caption; else None."""
    if len(form.columns) != 2:
        return None
    kinds = [_kind(field) for field in form.columns]
    if kinds.count("caption") != 1:
        return None
    return _Form(form.delimiter, kinds, start)


def _kind(field: str) -> str:
    if _URL.match(field):
        return "url"
    return "path" if _PICTURE.match(field) else "caption"


def _split(text: str, delimiter: str) -> list[str]:
    """Return the fields of one line; an empty list if its quotes are wrong."""
    try:
        fields = next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []
    return [field.strip() for field in fields]


# ---- rows ------------------------------------------------------------------------------------


def _record(line: Line, lines: LineFile, form: _Form) -> Record:
    after = lines.offset
    try:
        fields = _fields(line, lines, form)
        return Record(dict(zip(form.columns, fields, strict=False)), line.offset)
    except (csv.Error, _BadLine) as error:
        detail = f"line {lines.number_at(line.offset)} {_words(error)}"
        lines.seek(after)
        return Record(None, line.offset, detail)


class _BadLine(Exception):
    """Raised for a line that is not a row of its table. The message follows "line N"."""


def _fields(line: Line, lines: LineFile, form: _Form) -> list[str]:
    if line.problem:
        raise _BadLine(line.problem)
    after = lines.offset
    taken: list[Line] = []

    def feed() -> Iterator[str]:
        taken.append(line)
        yield line.text
        while len(taken) < MAX_LINES_OF_A_ROW and (more := lines.read()) is not None:
            taken.append(more)
            yield more.text

    try:
        fields = next(csv.reader(feed(), delimiter=form.delimiter, strict=True))
        if any(each.problem or _is_row(each.text, form) for each in taken[1:]):
            raise _BadLine(_OPEN_QUOTE)
        return _checked(fields, form)
    except (csv.Error, _BadLine):
        if form.delimiter not in UNQUOTED or '"' not in line.text:
            raise
        lines.seek(after)
        return _checked(line.text.rstrip("\r\n").split(form.delimiter), form)


def _checked(fields: list[str], form: _Form) -> list[str]:
    """Return the fields of a row, stripped: a bar often has spaces around it."""
    num_columns = len(form.columns)
    if len(fields) < num_columns or any(map(str.strip, fields[num_columns:])):
        raise _BadLine(
            f"has {len(fields)} columns, the table has {num_columns}: a text that holds "
            f"{form.delimiter!r} or a line end belongs in double quotes"
        )
    return [field.strip() for field in fields[:num_columns]]


def _is_row(text: str, form: _Form) -> bool:
    """Return True if a line inside a quoted text is itself a row of the table."""
    places = [at for at, column in enumerate(form.columns) if known_column(column) == "path"]
    if not places:
        return False
    fields = text.rstrip("\r\n").split(form.delimiter)
    first = places[0] == 0 and len(fields) >= len(form.columns) and '"' not in fields[0]
    if first:
        return _PICTURE.match(fields[0]) is not None
    if text.count('"') % 2:
        return False  # the end of the quoted text
    fields = _split(text, form.delimiter)
    return len(fields) == len(form.columns) and _PICTURE.match(fields[places[0]]) is not None


def _words(error: Exception) -> str:
    if isinstance(error, _BadLine):
        return str(error)
    if "end of data" in str(error) or "expected after" in str(error):
        return _OPEN_QUOTE
    return f"is not a row: {error}"
