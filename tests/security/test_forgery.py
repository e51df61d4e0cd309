"""Callers' texts can not forge log lines, control a terminal, or put a key into the log."""

from tests.security.attacks.forgery import judge


def test_no_text_of_a_caller_forges_a_log_line_or_brings_a_key_into_the_log():
    report = judge()
    assert report["problems"] == []
    assert report["lines"] > 300
