"""Small captioned scenes with the dataset that a perfect worker would make of them."""

from pathlib import Path

from smallworld.scenes import SceneConfig
from smallworld.shards import write_shards
from smallworld.true_dataset import write_true_dataset as write_dataset
from smallworld.world import World
from tests.fakes import FakeTextEncoder

ROWS_PER_SHARD = 4
SCENES = SceneConfig(size_px=96)


def write_true_dataset(
    folder: Path, world: World, *, num_scenes: int, seed: int = 5, with_parts: bool = False
) -> Path:
    """Write source shards to `folder/pictures`, and a run's dataset to `folder/dataset`."""
    pictures = folder / "pictures"
    write_shards(pictures, world, num_scenes=num_scenes, seed=seed, scene_config=SCENES)
    write_dataset(
        folder / "dataset",
        pictures,
        FakeTextEncoder(),
        rows_per_shard=ROWS_PER_SHARD,
        with_parts=with_parts,
    )
    return folder
