"""Every command that README and docs show exists, with its options; nothing is run here."""

import re

import pytest

from scripts.reference_pages import PAGE, cli_page
from tests.docs.command_lines import command_lines, problem_of
from tests.docs.pages import blocks_of, pages
from tests.test_tree import ROOT
from training.recipes import DETECTOR_RECIPES, SAM_RECIPES

IN_PROSE = re.compile(r"`unspoken ([a-z][^`\n]*)`")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
SHELL = blocks_of("sh")


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.place)
def test_every_command_of_a_shell_block_is_accepted_by_the_command_line(block):
    for line in command_lines(block.text):
        match line.words:
            case ("unspoken", *words):
                assert problem_of(tuple(words)) is None, line.words
            case ("make", target, *_):
                assert target in TARGETS
            case _:
                pass


def test_commands_in_prose_name_existing_options():
    problems = {
        f"{page}: unspoken {text}": problem
        for page in pages()
        for text in IN_PROSE.findall((ROOT / page).read_text(encoding="utf-8"))
        if (problem := problem_of(tuple(text.replace("...", "").split()), whole=False))
    }
    assert not problems


def test_make_targets_in_prose_exist():
    named = {
        (page, target)
        for page in pages()
        for target in re.findall(r"`make ([a-z-]+)", (ROOT / page).read_text(encoding="utf-8"))
    }
    assert not {(page, target) for page, target in named if target not in TARGETS}


def test_recipes_of_shown_trainings_exist():
    shown = [
        line.words[2]
        for block in SHELL
        for line in command_lines(block.text)
        if line.words[:2] == ("unspoken", "train")
    ]
    assert shown and not set(shown) - {*SAM_RECIPES, *DETECTOR_RECIPES}


def test_the_page_of_the_command_line_is_what_make_reference_writes():
    assert PAGE.read_text(encoding="utf-8") == cli_page()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("label", "examples", "--nmae", "x"), "--nmae"),
        (("lable", "examples"), "no command lable"),
        (("label",), "missing"),
        (("label", "examples"), None),
    ],
)
def test_a_mistake_in_a_document_is_found(words, problem):
    found = problem_of(words)
    assert found is None if problem is None else problem.lower() in found.lower()


def test_examples_of_a_help_are_on_lines_of_their_own():
    assert not re.findall(r"^unspoken .* unspoken ", cli_page(), flags=re.MULTILINE)
