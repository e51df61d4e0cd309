"""Runs of a network with a stem, from weights without one, and the files that they need."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from smallworld.sa1b import write_sa1b
from smallworld.scenes import compose_scene
from tests.smallworld.tiny_world import tiny_world
from tests.training.true_dataset import SCENES, write_true_dataset
from training.sam.recipe import SamRecipe, smoke
from training.sam.starting_weights import read_stem
from training.train import DELTA, WEIGHTS, TrainFiles, train
from unspoken.errors import InvalidConfig
from unspoken.model.sam.checkpoint import SemanticInfo, load_weights, save_weights
from unspoken.model.sam.config import SemanticConfig
from unspoken.model.sam.semantic_sam import SemanticSam

DETECTOR = Path("smallworld/weights/detector")


def stemmed(*, steps: int = 3, pools_masks: bool = True) -> SamRecipe:
    """Return the smoke recipe with a stem; decoder and encoder are trained."""
    base = smoke()
    return replace(
        base,
        steps=steps,
        keep_embeddings=False,
        network=replace(
            base.network,
            sam=replace(base.network.sam, stem="resnet10t"),
            semantic=SemanticConfig(
                token_attention="joint",
                train="decoder+encoder",
                shared_head=True,
                pools_masks=pools_masks,
            ),
        ),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TrainFiles:
    world = tiny_world()
    folder = write_true_dataset(tmp_path_factory.mktemp("data"), world, num_scenes=6)
    write_sa1b(folder / "sa1b", [compose_scene(world, seed=1, config=SCENES)], seed=1)
    torch.manual_seed(0)
    save_weights(SemanticSam(smoke().network), folder / "plain.safetensors", info=SemanticInfo())
    return TrainFiles(
        out=folder,
        data=folder / "dataset",
        pictures=folder / "pictures",
        sa1b=folder / "sa1b",
        start=folder / "plain.safetensors",
        stem=DETECTOR,
    )


def test_weights_without_a_stem_start_a_network_with_one_that_then_goes_on_alone(
    files: TrainFiles, tmp_path: Path
) -> None:
    train(stemmed(), replace(files, out=tmp_path / "first"))
    learned = load_weights(tmp_path / "first" / WEIGHTS).model.state_dict()
    assert all(torch.equal(learned[name], tensor) for name, tensor in read_stem(DETECTOR).items())
    assert learned["image_encoder.mix_2.weight"].abs().sum() > 0
    assert not learned["mask_decoder.semantic_pool.std"].eq(1).any()  # taken from the pictures
    assert not (tmp_path / "first" / DELTA).exists()  # nobody has the network that it began as
    again = replace(files, out=tmp_path / "second", start=tmp_path / "first" / WEIGHTS, stem=None)
    train(stemmed(), again)
    assert (tmp_path / "second" / DELTA).exists()


def test_a_stem_without_its_detector_is_an_error(files: TrainFiles, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="--stem"):
        train(stemmed(), replace(files, out=tmp_path, stem=None))
    with pytest.raises(InvalidConfig, match="--stem"):
        train(stemmed(), replace(files, out=tmp_path, stem=None, start=None))


def test_trained_words_do_not_start_a_network_that_says_them_otherwise(
    files: TrainFiles, tmp_path: Path
) -> None:
    train(stemmed(), replace(files, out=tmp_path / "pools"))
    other = replace(files, out=tmp_path / "other", start=tmp_path / "pools" / WEIGHTS)
    with pytest.raises(InvalidConfig, match="semantic_pool"):
        train(stemmed(pools_masks=False), other)


def test_embeddings_are_kept_with_a_stem_but_not_while_its_mixes_learn(
    files: TrainFiles, tmp_path: Path
) -> None:
    recipe = replace(stemmed(), keep_embeddings=True)
    with pytest.raises(InvalidConfig, match="image encoder learns"):
        train(recipe, replace(files, out=tmp_path / "all"))
    semantic = replace(recipe.network.semantic, train="decoder")
    resting = replace(recipe, network=replace(recipe.network, semantic=semantic))
    train(resting, replace(files, out=tmp_path / "decoder"))
    assert list((tmp_path / "decoder" / "embeddings").rglob("*.safetensors"))
