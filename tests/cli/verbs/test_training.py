"""`unspoken train` and `evaluate`: recipes, and options that are checked before torch loads."""

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.smallworld.tiny_world import tiny_world
from tests.training.true_dataset import write_true_dataset
from training.detector.recipe import recipe_named
from training.recipes import DETECTOR_RECIPES, SAM_RECIPES
from training.sam.recipe import sam_recipe
from unspoken.errors import InvalidInput, MissingWeights


def run(*words):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, words)))


def test_help_lists_every_recipe():
    shown = run("train", "--help").output
    for name, about in {**SAM_RECIPES, **DETECTOR_RECIPES}.items():
        assert f"{name}: {about}" in shown


def test_every_listed_recipe_exists():
    assert [sam_recipe(name).name for name in SAM_RECIPES] == list(SAM_RECIPES)
    assert [recipe_named(name).name for name in DETECTOR_RECIPES] == list(DETECTOR_RECIPES)


def test_an_unknown_recipe_is_refused_with_the_nearest_one(tmp_path):
    result = run("train", "small-sem", "--out", tmp_path)
    assert isinstance(result.exception, InvalidInput)
    assert "small-sam" in result.exception.message


@pytest.mark.parametrize("recipe", ["readout", "thesis"])
def test_a_recipe_for_an_official_sam_refuses_to_start_from_random_weights(recipe, tmp_path):
    result = run("train", recipe, "--out", tmp_path / "out")
    assert isinstance(result.exception, InvalidInput)
    assert "--sam" in result.exception.message and not (tmp_path / "out").exists()


def test_errors_come_out_as_the_command_line_prints_them(tmp_path):
    result = run("evaluate", tmp_path / "none.safetensors", "--world", 1)
    assert isinstance(result.exception, MissingWeights)
    assert "none.safetensors" in str(result.exception)


def test_an_evaluation_names_the_options_that_it_needs(tmp_path):
    result = run("evaluate", tmp_path / "w", "--coco", tmp_path / "instances.json")
    assert isinstance(result.exception, InvalidInput) and "--images" in result.exception.message


def test_a_run_is_trained_on_by_its_name(tmp_path):
    truth = tmp_path / "runs" / "truth"
    write_true_dataset(truth, tiny_world(), num_scenes=12)
    result = run(
        *("train", "smoke", "--mix", "0:1", "--steps", 1, "--run", "truth"),
        *("--workspace", tmp_path, "--moved-to", truth / "pictures", "--out", tmp_path / "out"),
    )
    assert result.exit_code == 0, result.exception
    assert (tmp_path / "out/weights.safetensors").is_file()
