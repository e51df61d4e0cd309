"""`python -m bench.gpu_check`: time every network on a CUDA device, and compare it with the CPU.

Each section runs in a forked process, so a crash or an out-of-memory error only loses the figures
of that section. `SECTION_error` then has the exit status or the timeout; a traceback is on stderr.
Figures are also written to stderr when a section ends. Without a CUDA device the bench prints
`skipped`. The test suite runs the sections on the CPU at the sizes of `sections.TINY`.

encode   `encode_speedup_SAM`: seconds of the segment-anything predictor's `set_image` divided by
         those of the engine's `embed` as served (dtype `auto`); target: >= 3. `encode_ms_SAM_DTYPE`
detect   `detect_speedup`: Grounding-DINO Swin-T, seconds of groundingdino-py divided by those of
         the engine as served; target: >= 2
segment  `segment_warm_p50_ms`: one text over HTTP on a picture with a mask bank, ViT-B;
         `bank_cold_ms`: all masks of a new picture
train    `train_steps_per_s`: the `readout` recipe at ViT-B, 128 boxes per step, kept embeddings
llm      `llm_captions_per_s_batch_N`, one template of the profile's language model;
         `llm_tokens_per_s_MODEL`: random weights at the sizes of SmolLM2-1.7B and BLOOM-7b1
parity   `small_mask_iou_DTYPE` mean and minimum IoU of the small SAM's masks with those of the CPU
         in float32; `box_px_max`, `box_missing` of the profile's detector: largest difference of a
         coordinate in pixels, number of detections of only one device; `llm_same_text`: share of
         captions with the same answer; `vit_b_embedding_error_DTYPE`: relative rms error
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection

import torch

from bench.gpu_check import sections as gpu_sections
from bench.gpu_check.sections import Figures

SECTION_TIMEOUT_S = 120


def main() -> None:
    """Run the sections one after another and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu with --tiny")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, for the test suite")
    parser.add_argument("--section", choices=sorted(gpu_sections.SECTIONS), action="append")
    given = parser.parse_args()
    named = _forked("device", partial(_device_name, given.device))
    if "device_error" in named:
        sys.exit(f"cannot use --device {given.device}: {named['device_error']}")
    if "device" not in named:
        print(json.dumps({"bench": "gpu_check", "figures": {}, "skipped": "no CUDA device"}))
        return
    sizes = gpu_sections.TINY if given.tiny else gpu_sections.PUBLISHED
    figures = named
    for name in given.section or gpu_sections.SECTIONS:
        found = _forked(name, partial(_measure, name, given.device, sizes))
        print(json.dumps(found), file=sys.stderr, flush=True)
        figures |= found
    print(json.dumps({"bench": "gpu_check", "figures": figures}))


def _forked(name: str, run: Callable[[], Iterator[Figures]]) -> Figures:
    """Run a section in a forked process.

    It is forked because imports cost seconds; CUDA must be initialised after the fork.
    """
    forking = multiprocessing.get_context("fork")
    receiver, sender = forking.Pipe(duplex=False)
    started_s = time.perf_counter()
    child = forking.Process(target=_send, args=(sender, run))
    child.start()
    sender.close()
    figures: Figures = {}
    try:
        while receiver.poll(max(0.0, started_s + SECTION_TIMEOUT_S - time.perf_counter())):
            figures |= receiver.recv()
    except EOFError:  # the section has ended, or failed
        child.join()
    if child.is_alive():
        child.kill()
        figures[f"{name}_error"] = f"did not end in {SECTION_TIMEOUT_S} s"
    elif child.exitcode:
        figures[f"{name}_error"] = f"exit status {child.exitcode}"
    figures[f"{name}_section_s"] = round(time.perf_counter() - started_s, 1)
    return figures


def _send(sender: Connection, run: Callable[[], Iterator[Figures]]) -> None:
    for figures in run():
        sender.send(figures)


def _measure(name: str, device: str, sizes: gpu_sections.Sizes) -> Iterator[Figures]:
    """Yield the section's figures, and its peak device memory for tensors."""
    yield from gpu_sections.SECTIONS[name](device, sizes)
    if device.startswith("cuda"):
        peak_gib = torch.cuda.max_memory_allocated(device) / 2**30
        yield {f"{name}_peak_gib": round(peak_gib, 2)}


def _device_name(device: str) -> Iterator[Figures]:
    if not device.startswith("cuda"):
        yield {"device": device}
    elif torch.cuda.is_available():
        yield {"device": f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"}


if __name__ == "__main__":
    main()
