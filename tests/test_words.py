"""The check of words that `make check` runs."""

import pytest

from scripts.check_words import find_problems


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ('"""What becomes of a row."""', "the docstring begins with 'What'"),
        ('def f():\n    """Whether it is over."""', "the docstring begins with 'Whether'"),
        ('class A:\n    """Who is asked, and when."""', "the docstring begins with 'Who'"),
        ('raise ValueError("the service broke off")', "the text has 'broke off'"),
        ('text = f"{n} labels were proposed in vain"', "the text has 'in vain'"),
        ('text = "proposed in" " vain"', "the text has 'in vain'"),
    ],
)
def test_a_relapse_is_found_with_its_reason(source, reason):
    assert [problem.reason for problem in find_problems("a.py", source)] == [reason]


def test_a_problem_names_the_file_and_the_line():
    (problem,) = find_problems("a.py", '\ndef f():\n    """Where it lies."""')
    assert str(problem) == "a.py:2: the docstring begins with 'Where'"


@pytest.mark.parametrize(
    "source",
    ['"""Return True if the call has finished."""', '# What is said in vain\nx = "the whole text"'],
)
def test_plain_words_and_comments_pass(source):
    assert not list(find_problems("a.py", source))
