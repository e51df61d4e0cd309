"""The parser of server-sent events, by the cases of the HTML standard, 9.2.6."""

import pytest

from unspoken.client.events import EventParser

CASES = {
    "LF": (b"event: a\ndata: x\nid: 1\n\n", [("a", "x", "1")]),
    "CRLF": (b"event: a\r\ndata: x\r\nid: 1\r\n\r\n", [("a", "x", "1")]),
    "CR": (b"event: a\rdata: x\rid: 1\r\r", [("a", "x", "1")]),
    "mixed line ends": (b"data: x\r\ndata: y\ndata: z\r\n\n", [("message", "x\ny\nz", None)]),
    "lines of data": (b"data: x\ndata\ndata:\ndata:  y\n\n", [("message", "x\n\n\n y", None)]),
    "comments": (
        b": ping\n\nid: 1\ndata: x\n\n: ping\n\n: ping\n\ndata: y\n\n",
        [("message", "x", "1"), ("message", "y", "1")],
    ),
    "id without data": (b"id: 7\n\ndata: x\n\n", [("message", "x", "7")]),
    "id reset": (
        b"id: 7\ndata: x\n\nid\ndata: y\n\n",
        [("message", "x", "7"), ("message", "y", "")],
    ),
    "id with NUL": (b"id: 7\nid: 8\0\ndata: y\n\n", [("message", "y", "7")]),
    "retry": (b"retry: 2000\n\nretry: x\ndata: x\n\n", [("message", "x", None)]),
    "event without data": (b"event: a\n\ndata: x\n\n", [("message", "x", None)]),
    "event without a name": (b"event:\ndata: x\n\n", [("message", "x", None)]),
    "byte order mark": (b"\xef\xbb\xbfdata: x\n\n", [("message", "x", None)]),
    "unknown field": (b"data: x\nfoo: y\n\n", [("message", "x", None)]),
    "truncated event": (b"data: x\n\ndata: y\n", [("message", "x", None)]),
    "Unicode line ends": ("data: a\u2028b\x85c\n\n".encode(), [("message", "a\u2028b\x85c", None)]),
    "invalid UTF-8": (b"data: \xff\n\n", [("message", "\ufffd", None)]),
}


@pytest.mark.parametrize("num_bytes", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(("body", "events"), CASES.values(), ids=CASES.keys())
def test_a_stream_in_pieces_of_any_size_is_parsed_by_the_standard(body, events, num_bytes):
    parser = EventParser()
    pieces = [body[start : start + num_bytes] for start in range(0, len(body), num_bytes)]
    assert [event for piece in pieces for event in parser.feed(piece)] == events


def test_an_event_is_told_before_the_next_piece_comes():
    parser = EventParser()
    assert list(parser.feed(b"data: x\r\r")) == [("message", "x", None)]
    assert list(parser.feed(b"\ndata: y\n\n")) == [("message", "y", None)]
