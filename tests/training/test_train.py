"""Whole runs of the `smoke` recipe: from files to weights, and resumed after a kill."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from smallworld.sa1b import write_sa1b
from smallworld.scenes import compose_scene
from tests.smallworld.tiny_world import tiny_world
from tests.training.true_dataset import SCENES, write_true_dataset
from training.sam.recipe import smoke
from training.train import CHECKPOINT, DELTA, METRICS, WEIGHTS, TrainFiles, train
from unspoken.errors import InvalidConfig, InvalidInput
from unspoken.model.sam.checkpoint import load_weights
from unspoken.model.sam.semantic_sam import is_new


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = tiny_world()
    path = write_true_dataset(tmp_path_factory.mktemp("data"), world, num_scenes=12)
    scenes = [compose_scene(world, seed=i, config=SCENES) for i in range(6)]
    write_sa1b(path / "sa1b", scenes, seed=1)
    return path


def files(folder: Path, out: Path, **more: Path) -> TrainFiles:
    return TrainFiles(
        out=out,
        data=folder / "dataset",
        pictures=folder / "pictures",
        sa1b=folder / "sa1b",
        **more,
    )


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the unchanged recipe once."""
    out = tmp_path_factory.mktemp("run")
    train(smoke(), files(folder, out))
    return out


def test_the_smoke_recipe_learns_labels(trained: Path) -> None:
    rows = metrics(trained)
    assert rows[-1]["step"] == smoke().steps
    assert rows[-1]["contrast"] < 0.8 * rows[0]["contrast"]
    assert (trained / "samples" / "step-000020.png").stat().st_size > 1000


def test_the_weights_say_what_they_are(trained: Path) -> None:
    loaded = load_weights(trained / WEIGHTS)
    assert loaded.info.semantic_trained
    assert loaded.info.text_encoder == "fake-text-encoder@0"
    assert loaded.info.history["smoke"]["mix"] == "8:32"
    assert loaded.model.config == smoke().network


def test_a_run_from_earlier_weights_leaves_sam_as_it_was_and_writes_a_delta(
    folder: Path, trained: Path, tmp_path: Path
) -> None:
    recipe = replace(smoke(), steps=4)
    train(recipe, files(folder, tmp_path, start=trained / WEIGHTS))
    before = load_weights(trained / WEIGHTS).model.state_dict()
    after = load_weights(tmp_path / WEIGHTS).model.state_dict()
    assert all(torch.equal(after[n], t) for n, t in before.items() if not is_new(n))
    whole, delta = (tmp_path / WEIGHTS).stat().st_size, (tmp_path / DELTA).stat().st_size
    assert delta < whole
    assert load_weights(tmp_path / DELTA, base=before).info.semantic_trained


def test_a_killed_run_goes_on_to_the_same_losses(folder: Path, tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    recipe = replace(smoke(), steps=12, log_every=1, checkpoint_every_s=0.0)
    train(recipe, files(folder, straight))
    command = [
        sys.executable, "-c",
        "from dataclasses import replace; from pathlib import Path; import sys, torch;"
        "torch.set_num_threads(1);"
        "from training.sam.recipe import smoke; from training.train import TrainFiles, train;"
        "root, out = map(Path, sys.argv[1:]);"
        "train(replace(smoke(), steps=12, log_every=1, checkpoint_every_s=0.0), TrainFiles("
        "out=out, data=root / 'dataset', pictures=root / 'pictures', sa1b=root / 'sa1b'))",
        str(folder), str(killed),
    ]  # fmt: skip
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while not (killed / METRICS).exists() or len(metrics(killed)) < 3:
        assert time.monotonic() < deadline, "the run writes metrics"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    train(recipe, files(folder, killed))
    last = {row["step"]: row["loss"] for row in metrics(killed)}
    assert [last[n] for n in range(1, 13)] == pytest.approx(
        [row["loss"] for row in metrics(straight)], abs=2e-4
    )


@pytest.mark.parametrize(
    ("missing", "word"), [("sa1b", "--sa1b"), ("data", "--run"), ("pictures", "--moved-to")]
)
def test_what_a_recipe_needs_and_was_not_named_is_an_error(
    folder: Path, tmp_path: Path, missing: str, word: str
) -> None:
    with pytest.raises((InvalidConfig, InvalidInput), match=word):
        train(smoke(), replace(files(folder, tmp_path), **{missing: None}))


def test_a_checkpoint_is_replaced_and_never_half_written(trained: Path) -> None:
    assert (trained / CHECKPOINT).exists()
    assert not list(trained.glob("*.part"))
