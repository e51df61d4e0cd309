"""`unspoken key` prints a new key and the entry that admits it."""

import pytest
from typer.testing import CliRunner

from cli.main import app
from unspoken.config.api_keys import KeyRing, parse_keys
from unspoken.errors import InvalidConfig, InvalidInput


def words(line: str) -> str:
    return line.split()[0].partition("=")[2]


def test_the_key_that_is_shown_is_let_in_by_its_entry():
    shown = CliRunner().invoke(app, ["key", "phone-app", "--per-minute", "30"])
    key, entry = map(words, shown.stdout.splitlines())
    (read,) = parse_keys(entry, requests_per_minute=600)
    assert (read.name, read.requests_per_minute) == ("phone-app", 30)
    assert KeyRing([read]).admit(f"Bearer {key}") == "phone-app"
    assert key not in entry


def test_a_name_that_no_entry_can_have_is_refused():
    refused = CliRunner().invoke(app, ["key", "phone app"])
    assert isinstance(refused.exception, InvalidInput) and not refused.stdout
    with pytest.raises(InvalidConfig):
        parse_keys("phone app", requests_per_minute=0)
