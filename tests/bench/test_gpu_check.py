"""The GPU check at toy sizes on the CPU, so that its code is tested without a GPU."""

import json
import subprocess
import sys

import pytest
import torch

from bench.gpu_check import sections as gpu_sections


def collected(section: str) -> gpu_sections.Figures:
    figures: gpu_sections.Figures = {}
    for part in gpu_sections.SECTIONS[section]("cpu", gpu_sections.TINY):
        figures |= part
    return figures


@pytest.mark.parametrize(
    ("section", "figure"),
    [
        ("encode", "encode_ms_tiny_float32"),
        ("detect", "detect_ms_float32"),
        ("segment", "segment_warm_p50_ms"),
        ("train", "train_steps_per_s"),
        ("llm", "llm_captions_per_s_batch_8"),
    ],
)
def test_each_section_measures_at_toy_sizes_on_the_cpu(section: str, figure: str):
    figures = collected(section)
    assert float(figures[figure]) > 0


def test_the_cpu_gives_the_answers_of_the_cpu():
    figures = collected("parity")
    assert figures["small_mask_iou_float32"] == 1
    assert (figures["box_px_max"], figures["box_missing"], figures["llm_same_text"]) == (0, 0, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
def test_without_a_cuda_device_the_check_says_that_it_was_skipped():
    command = [sys.executable, "-m", "bench.gpu_check"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {
        "bench": "gpu_check",
        "figures": {},
        "skipped": "no CUDA device",
    }
