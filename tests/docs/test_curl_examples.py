"""Every curl of README, tutorials and how-to guides gets an answer from a gateway over fakes."""

from tests.docs.curl import commands
from tests.docs.pages import blocks_of

WITH_REPLIES = "docs/reference/wire-api/"
"""These pages have a test of their own, which compares the replies, too."""


def test_every_request_is_answered(urls, tmp_path):
    sent = 0
    for block in blocks_of("sh"):
        if block.page.startswith(WITH_REPLIES):
            continue
        for command in commands(block.text):
            reply = command.send(urls, folder=tmp_path)
            assert reply.is_success, (block.place, reply.text)
            sent += 1
    assert sent >= 2
