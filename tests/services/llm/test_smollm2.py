"""The real model from its wheel: it converts, loads, and lists parts of a car."""

import pytest

from services.llm.engine import build_engine
from services.llm.settings import LlmSettings
from services.llm.smollm2 import converted_smollm2
from tests.services.llm.attacks import check_phrases, make_attacks
from unspoken.config.settings import default_cache_dir
from unspoken.errors import MissingWeights


@pytest.fixture(scope="module")
def engine():
    # Use the user's cache folder, so that the model is converted only once.
    return build_engine(LlmSettings(cache_dir=default_cache_dir(), num_threads=1))


@pytest.fixture(scope="module")
def chat_engine():
    settings = LlmSettings(cache_dir=default_cache_dir(), num_threads=1, prompt_style="chat")
    return build_engine(settings)


def test_parts_that_no_caption_names_are_implied(engine):
    car, plant = engine.propose(["Car for sale in Reno", "Plant"], templates=["noun_parts"])
    implied = {phrase.text for phrase in car.phrases if not phrase.named}
    assert {"wheel", "window"} <= implied
    assert {phrase.text for phrase in car.phrases if phrase.named} >= {"car"}
    assert "leaf" in {phrase.text for phrase in plant.phrases if not phrase.named}


def test_attacks_on_the_real_model_leave_neither_the_grammar_nor_what_is_named(engine):
    attacks = make_attacks(17)[::2]
    captions = [attack.caption for attack in attacks]
    for attack, proposal in zip(
        attacks, engine.propose(captions, templates=["named"]), strict=True
    ):
        check_phrases(proposal, attack)


@pytest.mark.parametrize(
    ("template", "caption", "phrase"),
    [
        ("named", "Woman riding a bicycle along the canal", "bicycle"),
        ("implied", "Bowl of ramen with egg and spring onion", "noodle"),
        ("worn", "Men's Waterproof Hiking Boots - Brown, Size 44", "boot"),
        ("kind", "Ducati Panigale V4, Mugello", "car"),
    ],
)
def test_each_way_to_ask_gets_a_sensible_answer(engine, template, caption, phrase):
    (proposal,) = engine.propose([caption], templates=[template])
    (found,) = (each for each in proposal.phrases if each.text == phrase)
    assert template in {source.template for source in found.sources}


def test_asked_in_conversation_it_answers_as_its_examples_do(chat_engine):
    caption = "Woman riding a bicycle along the canal"
    (proposal,) = chat_engine.propose([caption], templates=["named"])
    assert {"woman", "bicycle"} <= {
        phrase.text
        for phrase in proposal.phrases
        if "named" in {source.template for source in phrase.sources}
    }


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingWeights, match=r"model\.gguf"):
        converted_smollm2(tmp_path / "model.gguf", cache_dir=tmp_path)
