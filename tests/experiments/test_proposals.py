"""A whole experiment: a tiny world, the real small detector, a model with one fixed answer."""

import json
import re
import struct
from collections.abc import Sequence

import pytest

from experiments.collections.collection import small_world
from experiments.outcomes import CURVE_SOURCES
from experiments.proposals import ProposalsConfig, compare_proposals
from experiments.report.files import BEGIN, END, put_into, write_report
from experiments.sources import ALL_SOURCES, LEGENDS, SOURCES, other_captions
from services.detector.engine import build_engine
from services.detector.settings import DetectorSettings
from services.llm.engine import PrompterEngine
from services.llm.parsing import Completion
from services.llm.prompts import ExampleSet
from services.llm.template_file import load_templates
from tests.smallworld.tiny_world import tiny_world
from unspoken.errors import InvalidInput
from unspoken.runs.dataset.plots import HEIGHT_PX, WIDTH_PX
from unspoken.text.lexicon import load_lexicon
from unspoken.wire.base import ModelInfo

NUM_SCENES = 4
CONFIG = ProposalsConfig(seed=5, num_draws=50, num_checked=1, curve_fdrs=(0.1, 0.5))


class Completer:
    """Answers 'wheel, window' to every question."""

    def complete(self, questions: Sequence[str], *, examples: ExampleSet) -> list[Completion]:
        return [Completion("wheel, window", mean_logprob=-1.0, num_tokens=4) for _ in questions]


def prompter():
    return PrompterEngine(
        Completer(),
        model=ModelInfo(name="fake", kind="llm", revision="0"),
        templates=load_templates(),
        default_templates=("parts", "noun_parts"),
        lexicon=load_lexicon(),
    )


@pytest.fixture(scope="module")
def collection():
    return small_world(tiny_world(), num_scenes=NUM_SCENES, seed=11)


@pytest.fixture(scope="module")
def detector():
    return build_engine(DetectorSettings())


@pytest.fixture(scope="module")
def result(collection, detector):
    return compare_proposals(collection, prompter(), detector, config=CONFIG)


def value(result, source, figure, setting="fixed"):
    return result["figures"][setting][source][figure].value


def test_every_source_is_decided_at_one_rate_and_the_main_ones_at_fixed_thresholds(result):
    assert set(result["figures"]["equal_fdr"]) == {source.name for source in ALL_SOURCES}
    assert {source.name for source in SOURCES} <= set(result["figures"]["fixed"])
    assert result["pictures"] == NUM_SCENES


def test_the_oracle_proposes_everything_and_a_vocabulary_as_well(result):
    assert value(result, "C3", "label_recall") == 1
    assert value(result, "C3", "phrase_precision") == 1
    assert value(result, "B4", "unnamed_label_recall") == 1


def test_the_captions_own_words_propose_nothing_unnamed(result):
    assert value(result, "B0", "unnamed_label_recall") == 0
    assert value(result, "B2", "unnamed_label_recall") == 0
    assert value(result, "B5", "unnamed_label_recall") > 0


def test_controls_ask_as_much_as_what_they_control(result):
    queries = "queries_per_picture"
    assert value(result, "C1", queries) == value(result, "B5", queries)
    assert value(result, "C1all", queries) == value(result, "B5all", queries)
    held = [name for name in result["figures"]["fixed"] if name.endswith("=")]
    assert {value(result, name, queries) for name in held} == {value(result, "B5", queries)}


def test_the_model_is_paid_for_by_those_who_ask_it(result):
    cost = {name: row["lm_tokens_per_picture"] for name, row in result["cost"]["sources"].items()}
    assert cost["B1"] == cost["C1"] == 0
    assert 0 < cost["B3"] < cost["B5"] < cost["B5all"]


def test_the_same_seed_gives_the_same_figures(result, collection, detector):
    again = compare_proposals(collection, prompter(), detector, config=CONFIG)
    timed = ("seconds", "cpu_seconds")
    assert repr({k: v for k, v in again.items() if k not in timed}) == repr(
        {k: v for k, v in result.items() if k not in timed}
    )


def test_another_caption_is_never_ones_own():
    for number in (2, 3, 10):
        others = other_captions(number, seed=1)
        assert sorted(others) == list(range(number))
        assert all(index != other for index, other in enumerate(others))


def test_the_report_is_json_a_page_and_plots(result, tmp_path):
    written = write_report(result, tmp_path / "out")
    assert {path.suffix for path in written} == {".json", ".md", ".png"}
    assert all(path.stat().st_size for path in written)
    loaded = json.loads(written[0].read_text(), parse_constant=lambda name: pytest.fail(name))
    assert loaded["pictures"] == NUM_SCENES
    page = written[1].read_text()
    assert "nan" not in page
    assert "| C3 oracle: the true labels |" in page
    png = written[2].read_bytes()
    assert png[:4] == b"\x89PNG"
    width_px, height_px = struct.unpack(">II", png[16:24])
    assert width_px > 2 * WIDTH_PX and height_px == 2 * HEIGHT_PX


def test_plots_name_sources_in_words():
    assert set(LEGENDS) == set(CURVE_SOURCES)
    assert len(set(LEGENDS.values())) == len(LEGENDS)
    assert not [text for text in LEGENDS.values() if re.search(r"\b[BC]\d", text)]


def test_the_table_goes_between_the_marks_of_a_page_and_nowhere_else(result, tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"before\n{BEGIN}\nearlier\n{END}\nafter\n")
    put_into(page, result)
    put_into(page, result)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n| source |")
    assert text.endswith(f"{END}\nafter\n")
    assert "earlier" not in text
    assert text.count("B0 whole caption") == 1
    page.write_text("no marks")
    with pytest.raises(InvalidInput, match="each once"):
        put_into(page, result)
