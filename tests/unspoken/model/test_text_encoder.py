"""Text towers: MiniLM lifted to 768 dimensions with unchanged cosines, and whole CLIP files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from unspoken.config.profiles import load_profile, resolve_files
from unspoken.errors import InvalidConfig, MissingWeights
from unspoken.model.text_encoder import (
    LiftedMiniLM,
    OpenClipText,
    open_clip_text_tower,
    orthonormal_lift,
    read_tower_weights,
)

PHRASES = ["dog", "puppy", "car", "automobile", "a red mug on the table", "wheel"]
BELOW = ("", "text.")
COSINE_TOLERANCE = 1e-5  # float32 through one more product


@pytest.fixture(scope="module")
def minilm(tmp_path_factory) -> Path:
    cache_dir = tmp_path_factory.mktemp("cache")
    return resolve_files(load_profile("small").text_encoder, cache_dir=cache_dir)


@pytest.fixture(scope="module")
def lifted(minilm) -> LiftedMiniLM:
    return LiftedMiniLM(minilm)


def sentence_vectors(folder: Path, texts: list[str]) -> torch.Tensor:
    """Compute MiniLM vectors as on its model card: mean of the tokens, unit length, (N, 384)."""
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state  # (N, T, 384)
    mask = tokens["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def test_lifting_minilm_changes_no_cosine(lifted, minilm):
    vectors = lifted.encode(PHRASES)
    assert vectors.shape == (6, 768) and vectors.dtype == torch.float32
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(6), atol=1e-6)
    plain = sentence_vectors(minilm, PHRASES)
    assert torch.allclose(vectors @ vectors.T, plain @ plain.T, atol=COSINE_TOLERANCE)


def test_minilm_knows_a_puppy_for_a_dog_and_not_for_a_car(lifted):
    dog, puppy, car, automobile, _, _ = lifted.encode(PHRASES)
    assert dog @ puppy > 0.7 > 0.5 > dog @ car
    assert car @ automobile > 0.8


def test_a_text_alone_and_in_a_batch_has_the_same_vector(lifted):
    together = lifted.encode(["wheel", "a very long phrase about the wheel of a car " * 5])
    assert torch.allclose(lifted.encode(["wheel"])[0], together[0], atol=COSINE_TOLERANCE)


def test_a_folder_of_another_type_of_model_is_refused_by_its_name(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    with pytest.raises(InvalidConfig, match="'roberta'"):
        LiftedMiniLM(tmp_path)


def test_the_lift_is_orthonormal_and_the_same_everywhere():
    lift = orthonormal_lift(384)
    assert lift.shape == (768, 384) and lift.dtype == np.float32
    assert np.allclose(lift.T @ lift, np.eye(384), atol=1e-6)
    # Datasets store vectors, so the lift must never change.
    corners = [0.051811963, 0.030486403, -7.7165292e-05, -0.00037087, -0.00020451, -0.04659161]
    assert np.allclose([*lift[0, :3], *lift[-1, -3:]], corners, atol=1e-7)


def test_the_text_tower_is_found_below_text_too_and_in_torch_files(tmp_path):
    state = {"text.ln_final.bias": torch.arange(3.0), "visual.x": torch.zeros(1)}
    save_file(state, tmp_path / "custom.safetensors")
    torch.save({"state_dict": state}, tmp_path / "custom.pt")
    for name in ("custom.safetensors", "custom.pt"):
        read = read_tower_weights(tmp_path / name, names=["ln_final.bias"], below=BELOW)
        assert read["ln_final.bias"].tolist() == [0, 1, 2]


def test_a_file_without_the_text_tower_is_refused_with_what_is_missing(tmp_path):
    save_file({"visual.x": torch.zeros(1)}, tmp_path / "vision.safetensors")
    with pytest.raises(MissingWeights, match=r"vision\.safetensors.*token_embedding\.weight"):
        read_tower_weights(
            tmp_path / "vision.safetensors", names=["token_embedding.weight"], below=BELOW
        )


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pt"])
def test_a_file_that_was_cut_short_is_refused_with_its_path(tmp_path, name):
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(InvalidConfig, match=name):
        read_tower_weights(tmp_path / name, names=["ln_final.bias"], below=BELOW)


@pytest.mark.parametrize("architecture", ["ViT-Z-99", "ViT-B-32", "ViT-B-16-SigLIP"])
def test_an_architecture_without_a_text_space_of_768_is_refused(architecture):
    with pytest.raises(InvalidConfig, match=architecture):
        open_clip_text_tower(architecture)


def text_configurations() -> dict[str, dict[str, Any]]:
    """Return a small model config for each kind of 768-dimensional text tower in open_clip.

    Only the sizes differ from the published configs; the image tower is a small ViT.
    """
    small: dict[str, dict[str, Any]] = {}
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        text = config["text_cfg"]
        if config["embed_dim"] != 768 or {"hf_model_name", "hf_tokenizer_name"} & set(text):
            continue
        config["text_cfg"] = {**text, "width": 32, "heads": 2, "layers": 2}
        config["vision_cfg"] = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1}
        if "multimodal_cfg" in config:
            config["multimodal_cfg"] |= {"width": 768, "heads": 2, "layers": 1}
            config["vision_cfg"] |= {"attentional_pool": True, "output_tokens": True}
        small.setdefault(json.dumps(config, sort_keys=True), {"name": name, **config})
    return {f"small-{config.pop('name')}": config for config in small.values()}


CONFIGURATIONS = text_configurations()


@pytest.fixture
def architecture(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Register a small configuration with open_clip during the test; return its name."""
    name: str = request.param
    (tmp_path / f"{name}.json").write_text(json.dumps(CONFIGURATIONS[name]))
    open_clip.add_model_config(tmp_path)
    yield name
    (tmp_path / f"{name}.json").unlink()
    open_clip.factory._MODEL_CONFIG_PATHS.remove(tmp_path)
    open_clip.factory._rescan_model_configs()


@pytest.mark.parametrize("architecture", CONFIGURATIONS, indirect=True)
def test_a_text_has_the_vector_that_open_clips_own_model_gives_it(architecture, tmp_path):
    torch.manual_seed(7)
    model = open_clip.create_model(architecture).eval()
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "whole.safetensors")
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer(architecture)(PHRASES)
        expected = model.encode_text(tokens, normalize=True)
    vectors = OpenClipText(architecture, tmp_path / "whole.safetensors").encode(PHRASES)
    assert torch.allclose(vectors, expected, atol=COSINE_TOLERANCE)


def test_published_configurations_without_a_causal_mask_are_among_those_tested():
    unmasked = [n for n, each in CONFIGURATIONS.items() if each["text_cfg"].get("no_causal_mask")]
    assert unmasked
