"""The text encoder's engine: the contract on real weights, and each text encoded once."""

import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from services.segmenter.engine import TextEncoderEngine, build_engine
from services.segmenter.settings import SegmenterSettings
from tests.contracts import check_text_encoder
from tests.fakes import FakeTextEncoder
from unspoken.config.profiles import file_sha256, load_profile
from unspoken.errors import InvalidConfig, MissingWeights
from unspoken.model.text_encoder import open_clip_text_tower

MODEL = FakeTextEncoder.model


class CountingTower:
    """A text tower that records its inputs."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> Tensor:
        self.asked.append(list(texts))
        return torch.from_numpy(FakeTextEncoder().encode_texts(texts))


def settings(tmp_path: Path, **changes: object) -> SegmenterSettings:
    return SegmenterSettings(cache_dir=tmp_path, **changes)


def test_the_default_text_encoder_holds_the_contract(tmp_path):
    engine = build_engine(settings(tmp_path))
    check_text_encoder(engine)
    assert "MiniLM" in engine.model.name and engine.model.revision == "0.1.0"


def test_texts_that_repeat_are_encoded_once_and_answered_in_order():
    tower = CountingTower()
    engine = TextEncoderEngine(tower, model=MODEL)
    first = engine.encode_texts(["car", "wheel", "car"])
    assert tower.asked == [["car", "wheel"]]
    again = engine.encode_texts(["wheel", "dog", "car"])
    assert tower.asked[1:] == [["dog"]]
    assert np.array_equal(first[0], first[2])
    assert np.array_equal(again[[2, 0]], first[[0, 1]])


def test_no_texts_give_no_vectors():
    vectors = TextEncoderEngine(CountingTower(), model=MODEL).encode_texts([])
    assert vectors.shape == (0, 768) and vectors.dtype == np.float32


def test_the_tower_never_sees_more_than_a_batch():
    tower = CountingTower()
    engine = TextEncoderEngine(tower, model=MODEL, max_batch=4)
    assert engine.encode_texts([f"thing {i}" for i in range(10)]).shape == (10, 768)
    assert [len(batch) for batch in tower.asked] == [4, 4, 2]


@pytest.mark.parametrize("cache_entries", [0, 3])
def test_the_kept_vectors_are_bounded_and_the_answers_are_right_all_the_same(cache_entries):
    tower = CountingTower()
    engine = TextEncoderEngine(tower, model=MODEL, cache_entries=cache_entries)
    texts = [f"thing {i}" for i in range(10)]
    expected = FakeTextEncoder().encode_texts(texts)
    for _ in range(2):
        assert np.allclose(engine.encode_texts(texts), expected, atol=1e-6)
    engine.encode_texts(texts[-3:])
    assert len(tower.asked) == (2 if cache_entries else 3)


def test_kept_vectors_hold_no_whole_batch_in_memory():
    tower = CountingTower()
    engine = TextEncoderEngine(tower, model=MODEL, max_batch=512, cache_entries=1)
    tracemalloc.start()
    try:
        engine.encode_texts([f"thing {i}" for i in range(512)])
        tower.asked.clear()
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 512 * 768 * 4 / 2


def test_a_profile_whose_weights_are_not_fetched_stops_with_the_file_and_the_command(tmp_path):
    with pytest.raises(MissingWeights, match=r"open_clip_model.*unspoken weights fetch base"):
        build_engine(settings(tmp_path, profile="base"))


def models_file(folder: Path, *, file: str, digest: str, options: str) -> Path:
    """Write a models.yaml whose profile `tiny` has one custom file."""
    entry = f"{{name: tiny, source: 'file:{folder}', revision: r1, files: {{{file}: {digest}}}"
    path = folder / "models.yaml"
    path.write_text(
        f"profiles: {{tiny: {{llm: {entry}}}, detector: {entry}}}, "
        f"text_encoder: {entry}, options: {options}}}}}}}"
    )
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [("{backend: other}", "lifted_minilm or open_clip"), ("{backend: open_clip}", "architecture")],
)
def test_options_that_name_no_text_encoder_are_refused(tmp_path, options, message):
    (tmp_path / "weights.bin").write_bytes(b"x")
    path = models_file(tmp_path, file="weights.bin", digest="null", options=options)
    with pytest.raises(InvalidConfig, match=message):
        build_engine(settings(tmp_path, profile="tiny", models_file=path))


def test_the_real_vit_l_14_text_tower_is_built_from_its_config_and_loads_its_hubs_file(tmp_path):
    options = load_profile("base").text_encoder.options
    architecture, file = str(options["architecture"]), str(options["weights"])
    torch.manual_seed(7)
    tower = open_clip_text_tower(architecture).eval()
    assert sum(parameter.numel() for parameter in tower.parameters()) == 123_650_304
    with torch.inference_mode():
        expected = F.normalize(tower(open_clip.tokenize(["a dog"])), dim=-1)
    # As on the hub, one file contains the whole CLIP; the vision tower must be skipped.
    vision = {"visual.conv1.weight": torch.zeros(4, 3, 2, 2), "logit_scale": torch.ones([])}
    save_file({**tower.state_dict(), **vision}, tmp_path / file)
    del tower
    path = models_file(
        tmp_path, file=file, digest=file_sha256(tmp_path / file), options=json.dumps(dict(options))
    )
    engine = build_engine(settings(tmp_path, profile="tiny", models_file=path))
    (tmp_path / file).unlink()
    check_text_encoder(engine)
    vectors = engine.encode_texts(["a dog", "a photo of a dog " * 16, "Ein Hund, ein 犬"])
    assert np.allclose(vectors[0], expected[0], atol=1e-6)
    assert np.isfinite(vectors).all()
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
