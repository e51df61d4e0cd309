"""`python -m bench.gpu_check`: test and time every network on a CUDA device, against the CPU.

Each section runs in a process of its own, so a crash or an out-of-memory error of one costs its
figures only; the error is printed as `SECTION_error`. Without a CUDA device the bench prints
`skipped`. `--device cpu --tiny` runs the same code at toy sizes: the test suite does.

parity   `small_mask_iou_DTYPE` mean and least IoU of the small SAM's masks with those of the CPU in
         float32; `box_px_max`, `box_missing` of the profile's detector: largest difference of a
         coordinate in pixels, detections that only one device gives; `llm_same_text`: share of
         captions with the same answer; `vit_b_embedding_error_DTYPE`: relative rms error
encode   `encode_speedup_SAM`: seconds of the segment-anything predictor's `set_image` over those of
         the engine's `embed` as served (dtype `auto`); bar 3. `encode_ms_SAM_DTYPE`
detect   `detect_speedup`: Grounding-DINO Swin-T, groundingdino-py over the engine as served; bar 2
llm      `llm_captions_per_s`, one template of the profile's language model; the same of random
         weights at the sizes of SmolLM2-1.7B and BLOOM-7b1, in tokens per second
segment  `segment_warm_p50_ms`: one text over HTTP on a picture with a mask bank, ViT-B;
         `bank_cold_ms`: all masks of a new picture
train    `train_steps_per_s`: the `readout` recipe at ViT-B, 128 boxes a step, embeddings kept
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from bench import gpu_sections

SECTION_TIMEOUT_S = 240


@dataclass(frozen=True)
class _Arguments:
    device: str
    tiny: bool
    section: str | None


def main() -> None:
    """Run every section in its own process and print one JSON line."""
    arguments = _parse()
    if not torch.cuda.is_available() and arguments.device.startswith("cuda"):
        print(json.dumps({"bench": "gpu_check", "figures": {}, "skipped": "no CUDA device"}))
        return
    sizes = gpu_sections.TINY if arguments.tiny else gpu_sections.PUBLISHED
    sections: Mapping[str, Callable[[], gpu_sections.Figures]] = {
        name: partial(run, arguments.device, sizes) for name, run in gpu_sections.SECTIONS.items()
    }
    if arguments.section is not None:
        print(json.dumps(_run(arguments.section, sections[arguments.section], arguments.device)))
        return
    figures: gpu_sections.Figures = {"device": _device_name(arguments.device)}
    for name in sections:
        figures |= _in_own_process(name, arguments)
    print(json.dumps({"bench": "gpu_check", "figures": figures}))


def _parse() -> _Arguments:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu with --tiny")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, for the test suite")
    parser.add_argument("--section", choices=sorted(gpu_sections.SECTIONS), help="only this one")
    given = parser.parse_args()
    return _Arguments(given.device, given.tiny, given.section)


def _in_own_process(name: str, arguments: _Arguments) -> gpu_sections.Figures:
    command = [sys.executable, "-m", "bench.gpu_check", "--device", arguments.device]
    command += ["--section", name, *(["--tiny"] if arguments.tiny else [])]
    started_s = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECTION_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {f"{name}_error": f"did not end in {SECTION_TIMEOUT_S} s"}
    took = {f"{name}_section_s": round(time.perf_counter() - started_s, 1)}
    if done.returncode:
        sys.stderr.write(done.stderr)
        last_line = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {f"{name}_error": last_line, **took}
    found: gpu_sections.Figures = json.loads(done.stdout.strip().splitlines()[-1])
    return {**found, **took}


def _run(
    name: str, section: Callable[[], gpu_sections.Figures], device: str
) -> gpu_sections.Figures:
    """The section's figures, and the most device memory that its tensors took."""
    figures = section()
    if device.startswith("cuda"):
        peak_gib = torch.cuda.max_memory_allocated(device) / 2**30
        figures[f"{name}_peak_gib"] = round(peak_gib, 2)
    return figures


def _device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
