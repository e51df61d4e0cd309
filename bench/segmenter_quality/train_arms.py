"""Train the controls of `bench.segmenter_quality`: one small SAM on four data sets, equally long.

    python -m bench.segmenter_quality.train_arms --labels L --sa1b F --out ARMS
    python -m bench.segmenter_quality --arms ARMS

`L` is the output of `python -m bench.memory --out L`; `F` is written by `unspoken world
--unlabelled`. Writes `ARMS/sam.safetensors`, the committed weights with untrained semantic tokens.
From these it trains each arm by the recipe `small-semantic` and writes its weights:

own           on the dataset that the worker generated
true_labels   on the truth of the same pictures: the upper limit
named_only    on the worker's boxes of labels that captions name, without implied ones
unmixed       on the worker's dataset without masks (0:1)

Takes about 8 minutes per arm on two AVX-512 cores with other load. The same command resumes after
an interruption.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from bench.segmenter_quality.arms import ARMS, SAM, WEIGHTS, fresh_tokens
from services.segmenter.engine import build_engine
from services.segmenter.settings import SegmenterSettings
from smallworld.true_dataset import write_true_dataset
from unspoken.config.settings import child_environment
from unspoken.model.sam.checkpoint import load_weights, save_weights

STEPS = 200


def main() -> None:
    """Train the arms that are not trained yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--sa1b", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    labels, sa1b, out = arguments.labels, arguments.sa1b, arguments.out
    out.mkdir(parents=True, exist_ok=True)
    pictures, truth = labels / "world" / "shards", out / "runs" / "truth" / "dataset"
    if not truth.exists():
        write_true_dataset(truth, pictures, build_engine(SegmenterSettings()))
    fresh = fresh_tokens(load_weights(WEIGHTS))
    save_weights(fresh.model, out / SAM, info=fresh.info)
    for arm in ARMS:
        workspace, run = (out, "truth") if arm == "true_labels" else (labels / "labels", "labels")
        command = ["small-semantic", "--start", out / SAM, "--out", out / arm]
        command += ["--workspace", workspace, "--run", run, "--moved-to", pictures, "--sa1b", sa1b]
        command += ["--steps", arguments.steps, *_switches(arm)]
        share_embeddings(out, arm)
        train(command)


def _switches(arm: str) -> list[str]:
    match arm:
        case "named_only":
            return ["--named-only"]
        case "unmixed":
            return ["--mix", "0:1"]
        case _:
            return []


def share_embeddings(out: Path, arm: str) -> None:
    """Link one cache of embeddings into an arm: all arms have the same frozen encoder."""
    kept = out / "embeddings"
    kept.mkdir(exist_ok=True)
    link = out / arm / "embeddings"
    if not link.exists():
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(kept.resolve(), target_is_directory=True)


def train(arguments: list[object]) -> None:
    """Run the training command as a user would, on all cores. Raises CalledProcessError."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "-m"]
    torchrun += ["--nproc-per-node", str(torch.get_num_threads()), "--", "cli.main", "train"]
    subprocess.run(
        [sys.executable, *torchrun, *map(str, arguments)],
        check=True,
        env=child_environment(OMP_NUM_THREADS="1"),
    )


if __name__ == "__main__":
    main()
