"""docs/openapi matches the apps."""

import json

import pytest

from tests.openapi import FOLDER, apps


@pytest.mark.parametrize("name", ["gateway", "llm", "detector", "segmenter"])
def test_an_openapi_file_is_what_the_app_says(name):
    written = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(apps()[name].openapi())), "run `make openapi`"


def test_no_file_is_of_a_service_that_is_gone():
    assert {path.stem for path in FOLDER.glob("*.json")} == set(apps())
