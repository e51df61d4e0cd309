"""Load the network that a training run of Semantic-SAM starts from.

A small SAM may take the first layers of a trained small detector's backbone as its stem.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from unspoken.errors import InvalidConfig, MissingWeights
from unspoken.model.detector.grounding_dino import WEIGHTS_FILE, read_detector_config
from unspoken.model.sam.checkpoint import LoadedSam, SemanticInfo, load_official_sam, load_weights
from unspoken.model.sam.config import SemanticSamConfig
from unspoken.model.sam.conv_stem import MIX_PREFIX, STEM, STEM_PREFIX, build_stem
from unspoken.model.sam.regrid import regrid
from unspoken.model.sam.semantic_sam import SemanticSam, is_new

BACKBONE_PREFIX = "model.backbone.conv_encoder.model."


def load_start(
    network: SemanticSamConfig, *, sam: Path | None, start: Path | None, stem: Path | None
) -> LoadedSam:
    """Load the network to start from: official weights, own weights, or random weights.

    sam, start, stem: as in `training.train.TrainFiles`. Raises InvalidConfig, MissingWeights.
    """
    match sam, start:
        case None, None:
            model = SemanticSam(network)
            if network.sam.stem != "none":
                model.load_state_dict(_with_stem(model.state_dict(), stem))
            return LoadedSam(model=model, info=SemanticInfo())
        case Path(), None:
            config = network.sam if network.sam.image_size != 1024 else None
            return load_official_sam(sam, semantic=network.semantic, config=config)
        case None, Path():
            found = load_weights(start)
            model = SemanticSam(network)
            old, new = found.model.config.sam, network.sam
            state = regrid(found.model.state_dict(), old=old, new=new)
            if not found.info.semantic_trained:  # its semantic tensors are untrained
                state = {name: tensor for name, tensor in state.items() if not is_new(name)}
            if new.stem != "none" and old.stem == "none":
                state = _with_stem(state, stem)
            _fill(model, state, source=start)
            if not found.info.semantic_trained:
                model.mask_decoder.start_new_tokens()
            return LoadedSam(model=model, info=found.info)
        case _:
            raise InvalidConfig(
                "give either --sam (official weights) or --start (own weights), not both"
            )


def _fill(model: SemanticSam, state: Mapping[str, Tensor], *, source: Path) -> None:
    """Load `state`; only new tensors and a stem's mix weights may be missing."""
    missing, unexpected = model.load_state_dict(state, strict=False)
    wrong = unexpected + [n for n in missing if not (is_new(n) or n.startswith(MIX_PREFIX))]
    if wrong:
        raise InvalidConfig(f"{source} does not fit the recipe: {sorted(wrong)[:8]}")


def _with_stem(state: Mapping[str, Tensor], detector_dir: Path | None) -> dict[str, Tensor]:
    """Add the tensors of a detector's stem. Its mix weights stay as they are."""
    if detector_dir is None:
        raise InvalidConfig("this network has a stem: give the small detector's folder (--stem)")
    return {**state, **read_stem(detector_dir)}


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
