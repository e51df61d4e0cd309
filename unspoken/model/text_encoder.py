"""Text towers: encode phrases as unit vectors of 768 dimensions, the space of mask embeddings.

`LiftedMiniLM` is all-MiniLM-L6-v2. A fixed orthonormal map lifts its 384 dimensions to 768 and
preserves every cosine. So the weights are small and the vectors have the same shape as CLIP's.
`OpenClipText` is the text tower of an open_clip model. It does not build or read the image tower
(image_tower.py). Only its functions import open_clip, because most profiles do without.

Legend: N texts, T tokens, W width of the tower, D = 768.
"""

import logging
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, BertModel

from unspoken.compute.tensor_files import read_state_dict
from unspoken.config.model_folders import check_model_type
from unspoken.config.profiles import ModelEntry
from unspoken.errors import InvalidConfig, MissingWeights
from unspoken.wire.texts import EMBEDDING_DIM

if TYPE_CHECKING:
    from open_clip.transformer import TextTransformer

logger = logging.getLogger(__name__)

LIFT_SEED = 768
# A text has at most 256 characters, so it has at most 256 word pieces.
MAX_TOKENS = 256


class TextTower(Protocol):
    """Protocol of an encoder of texts to unit vectors."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Encode N texts as (N, D) float32 on the CPU, unit length along D."""


def load_text_tower(entry: ModelEntry, folder: Path) -> TextTower:
    """Load the tower that a profile's entry names. Raises InvalidConfig, MissingWeights."""
    match entry.options.get("backend"):
        case "lifted_minilm":
            return LiftedMiniLM(folder, device=entry.device, dtype=entry.dtype)
        case "open_clip":
            return OpenClipText(
                architecture_of(entry),
                weights_file_of(entry, folder),
                device=entry.device,
                dtype=entry.dtype,
            )
        case backend:
            raise InvalidConfig(
                f"text encoder {entry.name}: backend must be lifted_minilm or open_clip, "
                f"got {backend!r}"
            )


def architecture_of(entry: ModelEntry) -> str:
    """Return the open_clip architecture of an entry. Raises InvalidConfig if it is missing."""
    return _option(entry, "architecture")


def weights_file_of(entry: ModelEntry, folder: Path) -> Path:
    """Return the weights file of an entry's whole open_clip model.

    Raises InvalidConfig if the entry has no weights file.
    """
    return folder / _option(entry, "weights")


def _option(entry: ModelEntry, name: str) -> str:
    value = entry.options.get(name)
    if not isinstance(value, str):
        raise InvalidConfig(f"text encoder {entry.name}: options.{name} must be a text")
    return value


class LiftedMiniLM:
    """all-MiniLM-L6-v2 from a Hugging Face model folder, lifted to 768 dimensions."""

    def __init__(self, folder: Path, *, device: str = "cpu", dtype: str = "float32") -> None:
        """Load the model. Raises MissingWeights; InvalidConfig for another type of model."""
        check_model_type(folder, supported=("bert",), role="lifted_minilm text encoder")
        tower = BertModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True)
        self._tower = tower.to(device=device, dtype=getattr(torch, dtype)).eval()
        lift = torch.from_numpy(orthonormal_lift(tower.config.hidden_size))  # (D, W)
        self._lift = lift.to(device=device, dtype=self._tower.dtype)
        self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self._device = device

    def encode(self, texts: Sequence[str]) -> Tensor:
        """See TextTower."""
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        ids = tokens["input_ids"].to(self._device)  # (N, T)
        # A "[PAD]" in a text is no token either, because the stored vectors were computed so.
        mask = (ids != self._tokenizer.pad_token_id).long()
        with torch.inference_mode():
            states = self._tower(input_ids=ids, attention_mask=mask).last_hidden_state  # (N, T, W)
            means = (states * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(-1, keepdim=True)  # (N, W)
            return _unit(F.linear(means, self._lift))  # (N, D)


class OpenClipText:
    """The text tower of an open_clip architecture, with weights from a file of the whole model."""

    def __init__(
        self, architecture: str, weights: Path, *, device: str = "cpu", dtype: str = "float32"
    ) -> None:
        import open_clip

        # The meta device skips random initialisation, which saves time and half of the memory.
        with torch.device("meta"):
            tower = open_clip_text_tower(architecture)
        state = read_tower_weights(weights, names=tower.state_dict(), below=("", "text."))
        tower.load_state_dict(state, strict=True, assign=True)
        # The weights file does not have this buffer. Configs with `no_causal_mask` have no mask.
        if tower.attn_mask is not None:
            tower.attn_mask = tower.build_causal_mask()
        tower.output_tokens = False  # CoCa's config would return (vector, tokens)
        self._tower = tower.to(device=device, dtype=getattr(torch, dtype)).eval()
        self._tokenizer = open_clip.get_tokenizer(architecture)
        self._device = device

    def encode(self, texts: Sequence[str]) -> Tensor:
        """See TextTower. Truncates texts to the tower's context of 77 tokens, as CLIP does."""
        with torch.inference_mode():
            return _unit(self._tower(self._tokenizer(list(texts)).to(self._device)))  # (N, D)


def open_clip_text_tower(architecture: str) -> "TextTransformer":
    """Build the untrained text tower of an open_clip architecture.

    Raises InvalidConfig if the architecture is unknown, its tower or tokenizer would come from the
    hub, or its text space does not have 768 dimensions.
    """
    import open_clip
    from open_clip.model import _build_text_tower

    config = open_clip.get_model_config(architecture)
    if config is None:
        raise InvalidConfig(f"open_clip has no architecture {architecture!r}")
    hub_parts = {"hf_model_name", "hf_tokenizer_name"} & set(config["text_cfg"])
    if config["embed_dim"] != EMBEDDING_DIM or hub_parts:
        raise InvalidConfig(
            f"{architecture}: needs open_clip's own text tower and tokenizer, of {EMBEDDING_DIM} "
            "dimensions"
        )
    tower: TextTransformer = _build_text_tower(
        config["embed_dim"], config["text_cfg"], quick_gelu=config.get("quick_gelu", False)
    )
    return tower


def read_tower_weights(
    path: Path, *, names: Iterable[str], below: Sequence[str]
) -> dict[str, Tensor]:
    """Read one tower's tensors from a file of a whole CLIP model (safetensors, or .pt read safely).

    below: prefixes that a name may have in the file, tried in order. Raises MissingWeights with the
    missing names; InvalidConfig if a .safetensors file cannot be read.
    """
    with ExitStack() as stack:
        if path.suffix == ".safetensors":
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
            except SafetensorError as error:
                raise InvalidConfig(f"{path} is not a safetensors file: {error}") from error
            known, read = set(file.keys()), file.get_tensor
        else:
            state = read_state_dict(path, mmap=True)
            known, read = set(state), state.__getitem__
        places = {
            name: next((head + name for head in below if head + name in known), below[-1] + name)
            for name in names
        }
        missing = sorted(name for name, place in places.items() if place not in known)
        if missing:
            raise MissingWeights(
                f"{path} has no weights for {', '.join(missing[:3])} ({len(missing)} missing)"
            )
        return {name: read(place) for name, place in places.items()}


def orthonormal_lift(width: int) -> np.ndarray:
    """Return a (768, W) float32 matrix with orthonormal columns, the same on every machine.

    numpy guarantees that RandomState's stream does not change. The signs are fixed, because LAPACK
    implementations differ in them.
    """
    noise = np.random.RandomState(LIFT_SEED).standard_normal((EMBEDDING_DIM, width))
    q, r = np.linalg.qr(noise)  # (768, W), (W, W)
    return np.asarray(q * np.sign(np.diag(r)), dtype=np.float32)


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1).cpu()
