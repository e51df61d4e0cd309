"""Short form of the fuzzing; `make security-test` is the long form."""

from tests.security.attacks.fuzzing import fuzz

CASES_EACH = 3


def test_whatever_is_sent_no_service_answers_5xx():
    tally = fuzz(cases_each=CASES_EACH, number=7)
    assert tally["problems"] == []
    assert tally["cases"] >= 80
