"""The small Grounding-DINO: prompts, scores, phrase cache, and its weights folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, MMGroundingDinoForObjectDetection, PreTrainedTokenizerBase

from unspoken.errors import InvalidConfig, MissingWeights
from unspoken.model.detector.grounding_dino import (
    Prompt,
    SmallDetectorConfig,
    build_prompt,
    build_small_detector,
    cache_phrases,
    load_small_detector,
    prepare_pixels,
    save_small_detector,
    score_phrases,
    stored_names,
)

TINY = SmallDetectorConfig(
    image_size=96, d_model=32, ffn_dim=32, encoder_layers=1, decoder_layers=2, num_queries=12
)
PHRASES = [["car", "fire engine", "wheel"], ["christmas tree", "dog"]]


@pytest.fixture(scope="module")
def tokenizer(text_encoder_dir: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(text_encoder_dir)


@pytest.fixture
def model(text_encoder_dir: Path) -> MMGroundingDinoForObjectDetection:
    torch.manual_seed(0)
    return build_small_detector(TINY, text_encoder_dir=text_encoder_dir).eval()


@pytest.fixture(scope="module")
def prompt(tokenizer: PreTrainedTokenizerBase) -> Prompt:
    return build_prompt(PHRASES, tokenizer=tokenizer)


@torch.no_grad()
def logits_of(model: MMGroundingDinoForObjectDetection, prompt: Prompt) -> torch.Tensor:
    images = np.random.default_rng(0).integers(0, 256, (2, 70, 110, 3)).astype(np.uint8)
    output = model(
        pixel_values=prepare_pixels(list(images), config=TINY),
        input_ids=prompt.input_ids,
        attention_mask=prompt.attention_mask,
    )
    return output.logits.sigmoid()


def test_a_prompt_maps_each_phrase_to_its_own_tokens(
    prompt: Prompt, tokenizer: PreTrainedTokenizerBase
) -> None:
    for row, phrases in enumerate(PHRASES):
        for index, phrase in enumerate(phrases):
            ids = prompt.input_ids[row][prompt.phrase_maps[row, index]]
            assert tokenizer.decode(ids) == phrase
    assert not prompt.phrase_maps[1, 2].any()
    assert tokenizer.decode(prompt.input_ids[0]) == "[CLS] car. fire engine. wheel. [SEP]"


def test_a_phrase_scores_the_mean_of_its_tokens(prompt: Prompt) -> None:
    logits = torch.full((2, 4, 256), -torch.inf)
    logits[:, :, : prompt.input_ids.shape[1]] = torch.randn(2, 4, prompt.input_ids.shape[1])
    scores = score_phrases(logits, prompt.phrase_maps)
    tokens = prompt.phrase_maps[0, 1]
    assert tokens.sum() == 2
    expected = logits[0, :, : len(tokens)][:, tokens].sigmoid().mean(-1)
    torch.testing.assert_close(scores[0, :, 1], expected)
    assert (scores[1, :, 2] == 0).all()


def test_remembered_phrases_answer_as_the_text_encoder_does(
    model: MMGroundingDinoForObjectDetection, prompt: Prompt
) -> None:
    asked = logits_of(model, prompt)
    cache_phrases(model)
    remembered = logits_of(model, prompt)
    torch.testing.assert_close(remembered, asked, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits_of(model, prompt), remembered)


def test_a_weights_folder_brings_the_model_back(
    model: MMGroundingDinoForObjectDetection,
    prompt: Prompt,
    text_encoder_dir: Path,
    tmp_path: Path,
) -> None:
    half = {name: p.half().float() for name, p in model.state_dict().items()}
    model.load_state_dict(
        {n: t for n, t in half.items() if n in set(stored_names(model))}, strict=False
    )
    save_small_detector(model, tmp_path, config=TINY)
    loaded = load_small_detector(tmp_path, text_encoder_dir=text_encoder_dir)
    assert loaded.config == TINY
    torch.testing.assert_close(logits_of(loaded.model, prompt), logits_of(model, prompt))


def test_stored_weights_leave_out_the_text_encoder_and_fit_the_repository(
    text_encoder_dir: Path, tmp_path: Path
) -> None:
    config = SmallDetectorConfig()
    model = build_small_detector(config, text_encoder_dir=text_encoder_dir)
    save_small_detector(model, tmp_path, config=config)
    weights = load_file(tmp_path / "model.safetensors")
    assert not [name for name in weights if "text_backbone" in name]
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert (tmp_path / "model.safetensors").stat().st_size < 25e6


def test_weights_that_do_not_fit_are_refused(
    model: MMGroundingDinoForObjectDetection, text_encoder_dir: Path, tmp_path: Path
) -> None:
    save_small_detector(model, tmp_path, config=TINY)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    name = sorted(weights)[0]
    save_file({n: t for n, t in weights.items() if n != name}, path)
    with pytest.raises(InvalidConfig, match="does not fit"):
        load_small_detector(tmp_path, text_encoder_dir=text_encoder_dir)
    save_file(weights | {name: weights[name].flatten()[:1]}, path)
    with pytest.raises(InvalidConfig, match="does not fit"):
        load_small_detector(tmp_path, text_encoder_dir=text_encoder_dir)


def test_a_missing_file_is_named(
    model: MMGroundingDinoForObjectDetection, text_encoder_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(MissingWeights, match=r"config\.json"):
        load_small_detector(tmp_path, text_encoder_dir=text_encoder_dir)
    save_small_detector(model, tmp_path, config=TINY)
    with pytest.raises(MissingWeights, match="text encoder"):
        load_small_detector(tmp_path, text_encoder_dir=tmp_path / "nowhere")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(MissingWeights, match=r"model\.safetensors"):
        load_small_detector(tmp_path, text_encoder_dir=text_encoder_dir)


def test_a_config_without_our_block_is_refused(text_encoder_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"d_model": 128}))
    with pytest.raises(InvalidConfig, match="unspoken"):
        load_small_detector(tmp_path, text_encoder_dir=text_encoder_dir)
