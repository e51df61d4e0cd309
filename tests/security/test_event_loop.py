"""Hostile and incomplete bodies, in short form; `make security-test` has the long form."""

from bench.event_loop import measure
from tests.security.attacks import cut_bodies


def test_a_body_of_many_elements_does_not_hold_the_event_loop():
    figures = measure(["arrays", "arrays-of-a-run", "form-of-arrays"], tries=2)
    assert (
        figures["longest_block_ms"] <= 200
    )  # 50 is the limit on a machine with nothing else to do
    assert set(figures["blocks_ms"]) == {"arrays", "arrays-of-a-run", "form-of-arrays"}


def test_callers_who_disconnect_in_mid_body_are_no_errors_of_ours():
    report = cut_bodies.judge()
    assert report["problems"] == []
    assert report["cut"] >= 100
