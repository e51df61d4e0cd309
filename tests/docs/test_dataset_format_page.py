"""docs/reference/dataset-format.md has every field of the dataset, as the schema describes it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from unspoken.runs.dataset.shards import SCHEMA

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "dataset-format.md"


def table_of_fields() -> str:
    """Return a markdown table of every field with its type, unit and meaning."""
    lines = ["| field | type | unit | meaning |", "|---|---|---|---|"]
    lines += [_table_line(path, field) for path, field in _walk("", SCHEMA)]
    return "\n".join(lines) + "\n"


def _walk(prefix: str, fields: Any) -> Iterator[tuple[str, pa.Field]]:
    for field in fields:
        yield prefix + field.name, field
        item = field.type.value_type if pa.types.is_list(field.type) else field.type
        if pa.types.is_struct(item):
            mark = "[]." if pa.types.is_list(field.type) else "."
            yield from _walk(prefix + field.name + mark, item)


def _table_line(path: str, field: pa.Field) -> str:
    about: Mapping[bytes, bytes] = field.metadata
    meaning, unit = about[b"about"].decode(), about[b"unit"].decode()
    return f"| `{path}` | {_type_name(field.type)} | {unit} | {meaning} |"


def _type_name(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        return f"{kind.value_type}[{kind.list_size}]"
    if pa.types.is_list(kind):
        return f"list of {_type_name(kind.value_type)}"
    return "struct" if pa.types.is_struct(kind) else str(kind)


def test_the_page_on_the_format_has_every_field_as_the_schema_has_it():
    assert table_of_fields() in PAGE.read_text(encoding="utf-8"), table_of_fields()
