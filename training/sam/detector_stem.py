"""Loading the first layers of a trained small detector's backbone as the stem of a small SAM."""

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from unspoken.errors import InvalidConfig, MissingWeights
from unspoken.model.detector.grounding_dino import WEIGHTS_FILE, read_detector_config
from unspoken.model.sam.conv_stem import STEM, STEM_PREFIX, build_stem

BACKBONE_PREFIX = "model.backbone.conv_encoder.model."


def read_stem(detector_dir: Path) -> dict[str, Tensor]:
    """Read the stem's tensors from a small detector's folder, by their names in a Semantic-SAM.

    Raises MissingWeights, and InvalidConfig if the detector has another backbone.
    """
    path = detector_dir / WEIGHTS_FILE
    if not path.is_file():
        raise MissingWeights(f"no detector weights at {path}")
    backbone = read_detector_config(detector_dir).backbone
    if backbone != STEM:
        raise InvalidConfig(f"the stem is a {STEM}, the detector in {detector_dir} has {backbone}")
    found = {
        name.removeprefix(BACKBONE_PREFIX).replace("_backbone.", ""): tensor.float()
        for name, tensor in load_file(path).items()
        if name.startswith(BACKBONE_PREFIX)
    }
    return {STEM_PREFIX + name: found[name] for name in build_stem().state_dict()}
