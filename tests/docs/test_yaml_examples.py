"""The files that how-to guides show are accepted by what reads them."""

import yaml

from services.llm.template_file import load_templates
from tests.docs.pages import blocks
from unspoken.config.profiles import MODELS_FILE, load_profile


def yaml_of(page: str, tmp_path):
    """Write the only YAML block of a page to a file; return its path."""
    (text,) = [block.text for block in blocks(page) if block.language == "yaml"]
    path = tmp_path / "example.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_template_of_the_guide_is_a_template(tmp_path):
    templates = load_templates(yaml_of("docs/how-to/add-a-template.md", tmp_path))
    assert {"parts", "vehicle_parts"} <= templates.keys()


def test_the_detector_of_the_guide_fits_into_a_profile(tmp_path):
    path = yaml_of("docs/how-to/add-a-detector.md", tmp_path)
    written = yaml.safe_load(MODELS_FILE.read_text(encoding="utf-8"))
    written["profiles"]["base"].update(yaml.safe_load(path.read_text(encoding="utf-8")))
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    assert load_profile("base", models_file=path).detector.name == "grounding-dino-base"
