"""Checks of the inputs of `unspoken train` and `evaluate`, made before torch is imported."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cli.checking.paths import check_file, check_folder, check_output_folder, check_weights
from training.recipes import DETECTOR_RECIPES, NEEDED_DATA, NEEDED_WEIGHTS, SAM_RECIPES
from unspoken.errors import InvalidInput
from unspoken.problem_words import unknown_name

RECIPES = {**SAM_RECIPES, **DETECTOR_RECIPES}
_ABOUT = {
    "sam": "an official checkpoint with --sam FILE",
    "start": "weights of this project with --start FILE",
    "stem": "the folder of the small detector with --stem DIR",
    "sa1b": "a folder of SA-1B with --sa1b DIR",
    "run": "a labelled run with --run RUN",
}
_MIX = re.compile(r"\d+:0*[1-9]\d*")
_INSTANCES = ("images", "annotations", "categories")


def check_recipe(recipe: str, options: Mapping[str, Any]) -> None:
    """Raise InvalidInput or MissingWeights if a recipe lacks an input, or an input is not there.

    options: parameters of the command `train`, by name.
    """
    if recipe not in RECIPES:
        raise InvalidInput(unknown_name(recipe, RECIPES, what="recipe"))
    if options["sam"] is not None and options["start"] is not None:
        raise InvalidInput("--sam and --start both name the weights to start from. Give one")
    if options["mix"] is not None and not _MIX.fullmatch(options["mix"]):
        raise InvalidInput(f"--mix must be MASKS:BOXES, such as 1:4, got {options['mix']!r}")
    given = {name for name in _ABOUT if options[name] is not None}
    _check_complete(recipe, given, with_data=options["mix"] is None)
    for name in ("sam", "start"):
        if name in given:
            check_weights(options[name], what=f"--{name}")
    for name in ("stem", "sa1b"):
        if name in given:
            check_folder(options[name], what=f"--{name}")
    check_output_folder(options["out"])


def _check_complete(recipe: str, given: set[str], *, with_data: bool) -> None:
    """Raise InvalidInput if a recipe needs an option that is not given."""
    needed = NEEDED_WEIGHTS.get(recipe, ()) + (NEEDED_DATA.get(recipe, ()) if with_data else ())
    lacking = [name for name in needed if name not in given]
    if "start" in given and "sam" in lacking:
        lacking.remove("sam")
    if lacking:
        flags = " and ".join(f"--{name}" for name in lacking)
        told = " and ".join(_ABOUT[name] for name in lacking)
        raise InvalidInput(f"the recipe {recipe} needs {flags}. Give {told}")


def check_instances(file: Path, pictures: Path) -> None:
    """Raise InvalidInput unless the file is COCO or LVIS instances, and the folder exists."""
    check_file(file, what="--coco")
    check_folder(pictures, what="--images")
    try:
        written = json.loads(file.read_bytes())
    except ValueError as error:
        raise InvalidInput(f"--coco {file} is not JSON: {error}. Give an instances file") from error
    lacking = [name for name in _INSTANCES if not isinstance(written, dict) or name not in written]
    if lacking:
        raise InvalidInput(
            f"--coco {file} has no {', '.join(lacking)}. Give an instances file of COCO or LVIS"
        )
