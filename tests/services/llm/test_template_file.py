"""Users' own template files, and the errors for invalid ones."""

from pathlib import Path

import pytest

from services.llm.settings import LlmSettings
from services.llm.template_file import load_templates
from unspoken.errors import InvalidConfig

OWN = """
tools:
  form: "Caption: \\"{caption}\\"\\nTools at hand:"
  example_sets:
    - - [Carpenter at work, "plane, chisel"]
      - [Golden hour, none]
    - - [Smith at the forge, "anvil, tongs"]
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "own.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_file_of_ones_own_adds_templates_to_ours(write):
    templates = load_templates(write(OWN))
    assert set(templates) == {*load_templates(), "tools"}
    tools = templates["tools"]
    assert tools.drop_copies and not tools.asks_about_nouns
    assert [examples.prefix for examples in tools.example_sets] == [
        'Caption: "Carpenter at work"\nTools at hand: plane, chisel\n\n'
        'Caption: "Golden hour"\nTools at hand: none\n\n',
        'Caption: "Smith at the forge"\nTools at hand: anvil, tongs\n\n',
    ]


def test_the_setting_names_the_file(write, monkeypatch):
    path = write(OWN)
    monkeypatch.setenv("LLM_TEMPLATES_FILE", str(path))
    assert LlmSettings().templates_file == path


EXAMPLE = "  example_sets: [[[Goat, horn]]]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "own.yaml: must be an object", id="empty"),
        pytest.param("{}", "at least 1 item", id="no template"),
        pytest.param("- a", "own.yaml: must be an object", id="a list"),
        pytest.param("a: [", "not YAML", id="no yaml"),
        pytest.param("tools: 3", "tools", id="no fields"),
        pytest.param("tools:\n  form: '{caption}:'", "example_sets", id="no examples"),
        pytest.param(
            f"tools:\n  form: 'Things:'\n{EXAMPLE}", "{caption} or {a_noun}", id="no hole"
        ),
        pytest.param(
            f"tools:\n  form: '{{caption}} {{a_noun}}:'\n{EXAMPLE}", "once", id="two holes"
        ),
        pytest.param(f"tools:\n  form: '{{caption}}: '\n{EXAMPLE}", "colon", id="blank at the end"),
        pytest.param(
            "tools:\n  form: '{caption}:'\n  example_sets: []", "tools.example_sets", id="no set"
        ),
        pytest.param(
            "tools:\n  form: '{caption}:'\n  example_sets: [[[Goat, 1954]]]",
            "tools.example_sets[0][0][1]",
            id="a number",
        ),
        pytest.param(
            'tools:\n  form: "{caption}:"\n  example_sets: [[[Goat, "horn\\nGoat: gun"]]]',
            "tools.example_sets[0][0][1]",
            id="two lines",
        ),
        pytest.param(
            f"tools:\n  form: '{{caption}}:'\n  colour: red\n{EXAMPLE}",
            "unknown field 'colour' of tools",
            id="unknown",
        ),
        pytest.param(f"My Tools:\n  form: '{{caption}}:'\n{EXAMPLE}", "My Tools", id="odd name"),
        pytest.param(f"parts:\n  form: '{{caption}}:'\n{EXAMPLE}", "'parts' is taken", id="ours"),
        pytest.param(f"caption:\n  form: '{{caption}}:'\n{EXAMPLE}", "taken", id="reserved"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name(write, text, message):
    with pytest.raises(InvalidConfig) as caught:
        load_templates(write(text))
    assert "own.yaml" in caught.value.message and message in caught.value.message


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidConfig, match=r"absent\.yaml"):
        load_templates(tmp_path / "absent.yaml")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "own.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidConfig, match=r"own\.yaml"):
        load_templates(tmp_path / "own.yaml")
