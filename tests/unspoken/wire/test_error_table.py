"""The error table, from the tree to HTTP and back."""

import re

import httpx
import pytest

from tests.docs.pages import DOCS
from unspoken.client.http_error import error_of
from unspoken.errors import EngineFailure, InvalidInput, NotReady, Overloaded, UnspokenError
from unspoken.http.error_replies import error_response
from unspoken.wire.error_table import ERROR_TABLE, describe_status, error_class, status_of


def tree(root: type[UnspokenError] = UnspokenError) -> list[type[UnspokenError]]:
    """Return all errors below the root."""
    return [each for kind in root.__subclasses__() for each in (kind, *tree(kind))]


def received(error: UnspokenError) -> UnspokenError:
    """Return the error that a client makes of a service's reply."""
    reply = error_response(error)
    request = httpx.Request("GET", "http://service/path")
    return error_of(
        httpx.Response(
            reply.status_code, headers=dict(reply.headers), content=reply.body, request=request
        )
    )


def test_every_error_of_the_tree_has_exactly_one_entry_and_a_code_of_its_own():
    assert sorted(entry.error.__name__ for entry in ERROR_TABLE) == sorted(
        kind.__name__ for kind in tree()
    )
    assert len({entry.code for entry in ERROR_TABLE}) == len(ERROR_TABLE)


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_every_error_comes_back_as_itself_through_the_client(kind):
    error = received(kind("told", details={"field": "x"}))
    assert type(error) is kind
    assert error.message == "/path: told" and error.details == {"field": "x"}


@pytest.mark.parametrize("kind", [Overloaded, NotReady])
def test_a_retry_after_comes_back_in_whole_seconds(kind):
    assert received(kind("x", retry_after_s=6.2)).retry_after_s == 7


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (429, "", Overloaded),
        (503, "not_found", NotReady),  # a code of another status does not count
        (500, "internal", EngineFailure),
        (507, "", EngineFailure),
        (400, "invalid_input", InvalidInput),
        (418, "teapot", InvalidInput),
    ],
)
def test_a_reply_with_an_unknown_code_is_the_general_error_of_its_status(status, code, kind):
    assert error_class(status, code) is kind


def test_the_root_of_the_tree_is_an_internal_error():
    assert status_of(UnspokenError("x")) == 500


def test_the_titles_of_a_status_name_all_its_codes():
    assert describe_status(415).startswith("`not_an_image`: ")
    assert describe_status(429).count("`") == 4


def test_the_page_of_the_wire_api_gives_each_code_its_status():
    page = (DOCS / "reference" / "wire-api" / "index.md").read_text(encoding="utf-8")
    told = {code: int(status) for status, code in re.findall(r"^\| (\d{3}) \| `(\w+)`", page, re.M)}
    statuses = {entry.code: entry.status for entry in ERROR_TABLE}
    shared = told.keys() & statuses.keys()
    assert len(shared) >= 12
    assert {code: told[code] for code in shared} == {code: statuses[code] for code in shared}
