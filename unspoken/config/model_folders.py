"""Model folders in Hugging Face format: read `config.json` and check the model type."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from unspoken.errors import InvalidConfig, MissingWeights

CONFIG_FILE = "config.json"
MAX_NAMED = 8


def read_model_config(folder: Path, *, role: str = "model") -> dict[str, Any]:
    """Return the object in `config.json`. Raises MissingWeights, InvalidConfig."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise MissingWeights(f"no {CONFIG_FILE} of the {role} in {folder}")
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidConfig(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise InvalidConfig(f"{path} must contain a JSON object, got {type(config).__name__}")
    return config


def check_model_type(folder: Path, *, supported: Collection[str], role: str) -> None:
    """Raise InvalidConfig unless `config.json` has a supported model type.

    `role` is the service's name for the model, such as "detector", for the message.
    """
    found = read_model_config(folder, role=role).get("model_type")
    if found in supported:
        return
    names = ", ".join(sorted(supported)[:MAX_NAMED])
    if len(supported) > MAX_NAMED:
        names += f" and {len(supported) - MAX_NAMED} more"
    found_type = "names no model_type" if found is None else f"names model_type {found!r}"
    raise InvalidConfig(f"{folder / CONFIG_FILE} {found_type}; a {role} must be one of: {names}")
