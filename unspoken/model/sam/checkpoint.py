"""Files of Semantic-SAM: reads official SAM weights; reads and writes safetensors, whole or delta.

An official `sam_vit_*.pth` is read with `weights_only=True`; only the new tensors may be missing
from it. The safetensors header of our own files has the config, the text encoder and templates that
mask embeddings are aligned with, and a flag for a trained semantic head. Tensors have SAM's names;
the text mean is the tensor `text_mean`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unspoken.compute.tensor_files import read_state_dict, write_tensors
from unspoken.errors import InvalidConfig, MissingWeights
from unspoken.model.sam.config import (
    ISOLATED,
    SamConfig,
    SemanticConfig,
    SemanticSamConfig,
    sam_config,
)
from unspoken.model.sam.semantic_sam import SemanticSam, is_new

FORMAT = "unspoken-semantic-sam-1"
TEXT_MEAN = "text_mean"
HEADER_FIELDS = frozenset(("config", "info", "base_sha256"))
_OFFICIAL = {(768, 12): "vit_b", (1024, 24): "vit_l", (1280, 32): "vit_h"}


@dataclass(frozen=True, kw_only=True)
class SemanticInfo:
    """The meaning of a network's mask embeddings, and the network's history."""

    semantic_trained: bool = False
    text_encoder: str = ""
    """name@revision of the text encoder whose space is used; empty while untrained."""
    text_templates: tuple[str, ...] = ("{}",)
    """Templates over which a label's text embeddings are averaged to a target of unit length."""
    text_mean: Tensor | None = field(default=None, compare=False)
    """(D,) subtracted from every text embedding before comparing; None to subtract nothing."""
    history: Mapping[str, Any] = field(default_factory=dict)
    """Recipe, steps, and other facts for readers of the file."""


@dataclass(frozen=True, kw_only=True)
class LoadedSam:
    """A network in eval mode, and the meaning of its mask embeddings."""

    model: SemanticSam
    info: SemanticInfo


def load_official_sam(
    path: Path, *, semantic: SemanticConfig = ISOLATED, config: SamConfig | None = None
) -> LoadedSam:
    """Load an official `.pth` and add new tokens. Sizes are inferred from the file.

    config: for a file of other sizes than the three official ones. Raises MissingWeights;
    InvalidConfig with the names of the tensors that do not fit.
    """
    if not path.is_file():
        raise MissingWeights(f"no SAM checkpoint at {path}")
    state = read_state_dict(path)
    model = SemanticSam(SemanticSamConfig(sam=config or _size_of(state, path), semantic=semantic))
    _load(model, state, source=str(path), may_lack_new=True)
    model.mask_decoder.start_new_tokens()
    return LoadedSam(model=model.eval(), info=SemanticInfo())


def save_weights(
    model: SemanticSam, path: Path, *, info: SemanticInfo, dtype: torch.dtype = torch.float32
) -> None:
    """Write the whole network to one file, under a draft name that is then renamed."""
    state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    _write(path, state, config=model.config, info=info, base_sha256=None)


def save_delta(
    model: SemanticSam,
    path: Path,
    *,
    base: Mapping[str, Tensor],
    info: SemanticInfo,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write only the tensors that differ from `base`, the state dict of the original SAM."""
    state = {
        name: tensor.to(dtype)
        for name, tensor in model.state_dict().items()
        if is_new(name) or name not in base or not torch.equal(tensor.cpu(), base[name].cpu())
    }
    _write(path, state, config=model.config, info=info, base_sha256=state_sha256(base))


def load_weights(path: Path, *, base: Mapping[str, Tensor] | None = None) -> LoadedSam:
    """Load a file of `save_weights` or, with its `base`, of `save_delta`.

    Raises MissingWeights; InvalidConfig if the file has another format, its tensors do not fit, or
    it is a delta and `base` is not the SAM that it was made from.
    """
    header, state = _read(path)
    config = SemanticSamConfig.from_json(header["config"])
    mean = state.pop(TEXT_MEAN, None)
    if header["base_sha256"] is not None:
        if base is None or state_sha256(base) != header["base_sha256"]:
            raise InvalidConfig(f"{path} is a delta: it needs the SAM that it was trained from")
        state = {name: tensor for name, tensor in base.items() if not is_new(name)} | state
    model = SemanticSam(config)
    _load(model, state, source=str(path), may_lack_new=False)
    written = header["info"]
    info = SemanticInfo(
        semantic_trained=written["semantic_trained"],
        text_encoder=written["text_encoder"],
        text_templates=tuple(written["text_templates"]),
        text_mean=None if mean is None else mean.float(),
        history=written["history"],
    )
    return LoadedSam(model=model.eval(), info=info)


def read_header(path: Path) -> dict[str, Any]:
    """Read a file's header: config, info and base. Raises MissingWeights, InvalidConfig."""
    if not path.is_file():
        raise MissingWeights(f"no Semantic-SAM weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InvalidConfig(f"{path} is not a safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise InvalidConfig(f"{path} is not a Semantic-SAM of this project ({FORMAT})")
    try:
        header = json.loads(metadata.get("unspoken", ""))
    except ValueError as error:
        raise InvalidConfig(f"{path} has a header that is not JSON: {error}") from error
    if not isinstance(header, dict) or not set(header) >= HEADER_FIELDS:
        raise InvalidConfig(f"{path} has a header without {', '.join(sorted(HEADER_FIELDS))}")
    return header


def interpolate(
    sam: Mapping[str, Tensor], trained: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """Interpolate between a SAM (alpha 0) and its trained version (alpha 1).

    New weights are taken from the trained version. This is an alternative to mixing data for
    keeping the original ability (OWLv2, arXiv:2306.09683, section 4.6). Raises InvalidConfig if
    alpha is not in [0, 1] or the two have different tensors.
    """
    if not 0 <= alpha <= 1:
        raise InvalidConfig(f"alpha must be in [0, 1], got {alpha}")
    strangers = {name for name in trained if not is_new(name)} ^ {
        name for name in sam if not is_new(name)
    }
    if strangers:
        raise InvalidConfig(f"the weights are not two versions of one SAM: {sorted(strangers)[:8]}")
    return {
        name: tensor if is_new(name) else torch.lerp(sam[name], tensor, alpha)
        for name, tensor in trained.items()
    }


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Return the digest of SAM's own tensors, without the new ones."""
    digest = hashlib.sha256()
    for name in sorted(name for name in state if not is_new(name)):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _size_of(state: Mapping[str, Any], path: Path) -> SamConfig:
    """Return the config of an official SAM, inferred from its encoder's width and depth."""
    positions = state.get("image_encoder.pos_embed")
    depth = len({name.split(".")[2] for name in state if name.startswith("image_encoder.blocks.")})
    width = int(positions.shape[-1]) if isinstance(positions, Tensor) else 0
    if (width, depth) not in _OFFICIAL:
        raise InvalidConfig(
            f"{path} is not an official SAM: its encoder has width {width} and depth {depth}, "
            f"known are {sorted(_OFFICIAL)}"
        )
    return sam_config(_OFFICIAL[width, depth])


def _load(
    model: SemanticSam, state: Mapping[str, Tensor], *, source: str, may_lack_new: bool
) -> None:
    wanted = model.state_dict()
    missing = {name for name in wanted if name not in state}
    if may_lack_new and missing == {name for name in wanted if is_new(name)}:
        missing = set()
    mismatched = sorted(missing | (set(state) - set(wanted)))
    misshapen = [n for n in wanted if n in state and state[n].shape != wanted[n].shape]
    if mismatched or misshapen:
        raise InvalidConfig(
            f"{source} does not fit {model.config.sam.name}: "
            f"missing or unknown {mismatched[:8]}, of other shape {misshapen[:8]}"
        )
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)


def _write(
    path: Path,
    state: Mapping[str, Tensor],
    *,
    config: SemanticSamConfig,
    info: SemanticInfo,
    base_sha256: str | None,
) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if info.text_mean is not None:
        tensors[TEXT_MEAN] = info.text_mean.cpu().contiguous()
    written = asdict(replace(info, text_mean=None))
    written.pop("text_mean")
    header = {"config": config.to_json(), "info": written, "base_sha256": base_sha256}
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"format": FORMAT, "unspoken": json.dumps(header, sort_keys=True)}
    write_tensors(path, tensors, metadata=metadata)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    header = read_header(path)
    with safe_open(path, framework="pt") as file:
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
