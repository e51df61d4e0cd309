"""Model folders: checks of their `config.json`."""

import json

import pytest

from unspoken.config.model_folders import check_model_type, read_model_config
from unspoken.errors import InvalidConfig, MissingWeights


def test_a_folder_without_a_config_is_missing_weights(tmp_path):
    with pytest.raises(MissingWeights, match=r"no config\.json"):
        read_model_config(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff\xfe{}"])
def test_a_config_that_is_no_json_object_is_refused_with_its_path(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InvalidConfig, match=r"config\.json"):
        read_model_config(tmp_path)


@pytest.mark.parametrize(
    ("config", "found"), [({"model_type": "owlv2"}, "'owlv2'"), ({}, "no model_type")]
)
def test_another_type_of_model_is_refused_with_the_types_that_are_supported(
    tmp_path, config, found
):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidConfig, match=f"{found}; a detector must be one of: bert, gpt2"):
        check_model_type(tmp_path, supported=("gpt2", "bert"), role="detector")


def test_a_long_list_of_supported_types_is_cut(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidConfig, match=r"t0, .* t7 and 2 more$"):
        check_model_type(tmp_path, supported=[f"t{n}" for n in range(10)], role="llm")
