"""Prompt injection: even if the model obeys a caption, grammar and `named` stay correct."""

from collections.abc import Sequence

import pytest

from services.llm.engine import PrompterEngine
from services.llm.parsing import Completion
from services.llm.prompts import ExampleSet
from services.llm.template_file import load_templates
from tests.services.llm.attacks import ABSENT, Attack, check_phrases, make_attacks
from unspoken.text.lexicon import load_lexicon
from unspoken.wire.base import ModelInfo
from unspoken.wire.proposals import Proposal

LEXICON = load_lexicon()
TEMPLATES = load_templates()
ATTACKS = make_attacks(200)


class Puppet:
    """A language model that follows the caption's instruction: the worst case."""

    def __init__(self) -> None:
        self.wanted = ""
        self.asked: list[str] = []

    def complete(self, questions: Sequence[str], *, examples: ExampleSet) -> list[Completion]:
        self.asked += questions
        return [Completion(self.wanted) for _ in questions]


class Parrot(Puppet):
    """A language model that repeats its prompt."""

    def complete(self, questions: Sequence[str], *, examples: ExampleSet) -> list[Completion]:
        return [Completion(suffix.replace("\n", ", ")) for suffix in questions]


def propose(completer: Puppet, attack: Attack) -> Proposal:
    engine = PrompterEngine(
        completer,
        model=ModelInfo(name="puppet", kind="llm", revision="0"),
        templates=TEMPLATES,
        default_templates=tuple(TEMPLATES),
        lexicon=LEXICON,
    )
    completer.wanted = attack.wanted
    return engine.propose([attack.caption])[0]


@pytest.mark.parametrize("kind", [Puppet, Parrot])
def test_a_model_that_obeys_200_attacks_breaks_neither_the_grammar_nor_named(kind):
    for attack in ATTACKS:
        check_phrases(propose(kind(), attack), attack)


def test_what_an_obeying_model_made_up_is_implied_and_its_dirt_refused():
    for attack in ATTACKS:
        proposal = propose(Puppet(), attack)
        made_up = [phrase for phrase in proposal.phrases if phrase.text in ABSENT]
        assert not any(phrase.named for phrase in made_up)
        assert proposal.rejected, attack


def test_no_attack_opens_a_line_a_block_or_a_turn_in_its_prompt():
    for attack in ATTACKS:
        for template in TEMPLATES.values():
            suffix = template.question(attack.caption)
            assert suffix.count("\n") == template.form.count("\n")
            assert suffix.count('"') == template.form.count('"')
            assert not set("<>[]") & set(suffix)
            assert all(line.isprintable() for line in suffix.split("\n"))
            assert len(suffix) < 600


def test_the_attacks_are_as_many_and_as_large_as_they_claim():
    assert len({attack.way for attack in ATTACKS}) == 17
    assert max(len(attack.caption) for attack in ATTACKS) > 100_000
