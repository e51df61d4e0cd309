"""Backend over the original Grounding-DINO code (groundingdino-py 0.4.0), for its own checkpoints.

The package dates from 2023 and has two problems today. Its wrapper around BERT calls methods that
transformers 5 has removed, and it unpickles checkpoints without any check. This module replaces the
wrapper by a plain module and reads weights with `weights_only=True`. A checkpoint contains its
BERT, so only the config and the tokenizer are read from the text encoder's folder.
"""

import importlib
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, BertConfig, BertModel, GroundingDinoImageProcessor
from transformers.modeling_outputs import BaseModelOutput

from services.detector.packing import MAX_WORD_PIECES, PromptChunk, encoding_once
from services.detector.scoring import RawDetections
from services.detector.transformers_backend import resize_by
from unspoken.compute.tensor_files import read_state_dict
from unspoken.config.model_folders import check_model_type
from unspoken.errors import InvalidConfig, MissingWeights
from unspoken.http.deadline import check_wanted

Architecture = Literal["swin_T_224_1k", "swin_B_384_22k"]
"""The package's names of its two published networks."""

# These weights are in the published files, but the network of this package does not use them.
IGNORED_WEIGHTS = frozenset({"label_enc.weight", "bert.embeddings.position_ids"})


class PlainBert(nn.Module):
    """BERT with an attention mask per pair of tokens; replaces the package's `BertModelWarper`."""

    def __init__(self, bert_model: BertModel) -> None:
        super().__init__()
        self.config = bert_model.config
        self.embeddings = bert_model.embeddings
        self.encoder = bert_model.encoder
        self.pooler = bert_model.pooler  # unused, but the checkpoint has its weights

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> BaseModelOutput:
        """input_ids (B, T), attention_mask (B, T, T) bool -> hidden states (B, T, C)."""
        hidden = self.embeddings(
            input_ids=input_ids, token_type_ids=token_type_ids, position_ids=position_ids
        )
        forbidden = ~attention_mask[:, None].bool()  # (B, 1, T, T)
        additive = torch.zeros_like(forbidden, dtype=hidden.dtype).masked_fill(
            forbidden, torch.finfo(hidden.dtype).min
        )
        encoded = self.encoder(hidden, attention_mask=additive)
        return BaseModelOutput(last_hidden_state=encoded[0])


class GroundingDinoBackend:
    """Backend over one network on one device. Not thread-safe: call it from one thread."""

    box_threshold: float | None = None

    def __init__(self, model: Any, *, tokenizer: Any, short_side_px: int, device: str) -> None:
        self._model = model.to(device).eval().requires_grad_(requires_grad=False)
        self._tokenizer = tokenizer
        self._device = device
        self._prepare = resize_by(GroundingDinoImageProcessor(), short_side_px=short_side_px)
        self.max_word_pieces = MAX_WORD_PIECES
        self._word_pieces = lru_cache(maxsize=65_536)(self._tokenize)

    def word_pieces(self, text: str) -> Sequence[int]:
        """See Backend."""
        return self._word_pieces(text)

    @torch.inference_mode()
    def predict(self, pixels: np.ndarray, chunks: Sequence[PromptChunk]) -> list[RawDetections]:
        """See Backend."""
        pixel_values = self._prepare(pixels).to(self._device)
        with encoding_once(self._model.backbone):
            return [self._predict_chunk(pixel_values, chunk) for chunk in chunks]

    def _predict_chunk(self, pixel_values: Tensor, chunk: PromptChunk) -> RawDetections:
        check_wanted()  # stop between passes, because many phrases need many passes
        output = self._model(pixel_values, captions=[chunk.text_prompt])
        return RawDetections(
            token_scores=output["pred_logits"][0].sigmoid().cpu().numpy(),
            boxes_cxcywh_norm=output["pred_boxes"][0].cpu().numpy(),
        )

    def _tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))


def load_original_detector(
    weights_path: Path,
    *,
    text_encoder_dir: Path,
    architecture: str,
    short_side_px: int,
    device: str,
) -> GroundingDinoBackend:
    """Load a published `.pth` file into the original network.

    text_encoder_dir: has the `config.json` of the checkpoint's BERT, and its tokenizer. Raises
    MissingWeights. Raises InvalidConfig if the package is missing or the weights do not fit.
    """
    if not weights_path.is_file():
        raise MissingWeights(f"no file {weights_path}")
    check_model_type(text_encoder_dir, supported=("bert",), role="detector's text encoder")
    tokenizer = AutoTokenizer.from_pretrained(text_encoder_dir)
    bert_config = BertConfig.from_pretrained(text_encoder_dir)
    model = build_network(
        architecture_of(architecture), bert_config=bert_config, tokenizer=tokenizer
    )
    load_weights(model, read_weights(weights_path), source=str(weights_path))
    return GroundingDinoBackend(
        model, tokenizer=tokenizer, short_side_px=short_side_px, device=device
    )


def build_network(
    architecture: Architecture, *, bert_config: BertConfig, tokenizer: Any
) -> nn.Module:
    """Build the package's network with random weights.

    Raises InvalidConfig if the package is missing.
    """
    match architecture:
        case "swin_T_224_1k":
            recipe = "groundingdino.config.GroundingDINO_SwinT_OGC"
        case "swin_B_384_22k":
            recipe = "groundingdino.config.GroundingDINO_SwinB_cfg"
    with _drawing_left_out(), warnings.catch_warnings():
        # Ignore deprecation warnings, because the package is no longer maintained.
        warnings.simplefilter("ignore")
        try:
            module = importlib.import_module("groundingdino.models.GroundingDINO.groundingdino")
            config = importlib.import_module(recipe)
        except ModuleNotFoundError as error:
            raise InvalidConfig(
                f"the groundingdino backend needs groundingdino-py 0.4.0 ({error}): "
                "pip install --no-deps --no-build-isolation groundingdino-py==0.4.0"
            ) from error
        values = {name: value for name, value in vars(config).items() if not name.startswith("_")}
        # Activation checkpointing is only useful in training.
        values |= {"use_checkpoint": False, "use_transformer_ckpt": False}
        language = SimpleNamespace(
            get_tokenlizer=lambda _name: tokenizer,
            get_pretrained_language_model=lambda _name: BertModel(bert_config),
        )
        with _replaced(module, BertModelWarper=PlainBert, get_tokenlizer=language):
            network: nn.Module = module.build_groundingdino(SimpleNamespace(**values))
    return network


def architecture_of(name: str) -> Architecture:
    """Return a name from models.yaml as an Architecture. Raises InvalidConfig."""
    match name:
        case "swin_T_224_1k" | "swin_B_384_22k":
            return name
        case _:
            raise InvalidConfig(
                f"architecture must be swin_T_224_1k or swin_B_384_22k, got {name!r}"
            )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a published checkpoint. Raises InvalidConfig."""
    return {name.removeprefix("module."): each for name, each in read_state_dict(path).items()}


def load_weights(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy a checkpoint into the network. Raises InvalidConfig unless all names and shapes fit."""
    kept = {name: tensor for name, tensor in state.items() if name not in IGNORED_WEIGHTS}
    try:
        model.load_state_dict(kept, strict=True)
    except RuntimeError as error:  # torch raises it for names and shapes that differ
        raise InvalidConfig(f"{source} does not fit this Grounding-DINO: {error}") from error


@contextmanager
def _drawing_left_out() -> Iterator[None]:
    """Replace two modules that the package imports but the network never calls.

    They are the drawing module (opencv, matplotlib) and the reader of config files (addict, yapf).
    """
    left_out = {
        "groundingdino.util.visualizer": "COCOVisualizer",
        "groundingdino.util.slconfig": "SLConfig",
    }
    added = []
    for name, attribute in left_out.items():
        if name not in sys.modules:
            module = ModuleType(name)
            setattr(module, attribute, None)
            sys.modules[name] = module
            added.append(name)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


@contextmanager
def _replaced(module: ModuleType, **names: object) -> Iterator[None]:
    """Replace globals of a module within the block."""
    before = {name: getattr(module, name) for name in names}
    vars(module).update(names)
    try:
        yield
    finally:
        vars(module).update(before)
