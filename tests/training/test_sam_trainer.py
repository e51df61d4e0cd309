"""Steps of Semantic-SAM's training: trained and frozen weights, one process and two."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from smallworld.sa1b import write_sa1b
from smallworld.scenes import compose_scene
from tests.smallworld.tiny_world import tiny_world
from tests.training.true_dataset import SCENES, write_true_dataset
from training.data.batches import BatchConfig, TrainBatch, TrainData
from training.data.box_pictures import BoxPictures
from training.data.mask_pictures import MaskPictures
from training.data_parallel import ONE_PROCESS, Ranks, run_ranks
from training.sam.kept_embeddings import KeptEmbeddings
from training.sam.label_vectors import LabelVectors
from training.sam.optimizer import learning_rate, set_rates
from training.sam.recipe import SamRecipe, sam_recipe, smoke
from training.sam.trainer import SamTrainer, extent_iou, pick_points
from unspoken.errors import InvalidInput
from unspoken.model.sam.config import SemanticConfig, SemanticSamConfig, sam_config
from unspoken.model.sam.semantic_sam import Prompts, SemanticSam

RECIPE = replace(
    smoke(), batch=BatchConfig(masks_per_step=4, boxes_per_step=12, masks_per_picture=2, seed=5)
)
JOINT = replace(
    RECIPE,
    network=SemanticSamConfig(
        sam=sam_config("tiny"),
        semantic=SemanticConfig(token_attention="joint", train="decoder+encoder"),
    ),
    lr_decoder=1e-3,
    lr_encoder=1e-3,
)
# Each rank draws its own clicks.
EXACT = replace(JOINT, bf16="never", simulation="first")
ONE_PROCESS_TOLERANCE = 1e-5  # sums in another order


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = tiny_world()
    path = write_true_dataset(tmp_path_factory.mktemp("data"), world, num_scenes=10)
    scenes = [compose_scene(world, seed=i, config=SCENES) for i in range(5)]
    write_sa1b(path / "sa1b", scenes, seed=1)
    return path


def open_data(
    folder: Path, recipe: SamRecipe, ranks: Ranks = ONE_PROCESS
) -> tuple[TrainData, LabelVectors]:
    boxes = BoxPictures(
        folder / "dataset", pictures=folder / "pictures", boxes_per_picture=8, seed=5
    )
    data = TrainData(
        recipe.batch,
        sam=recipe.network.sam,
        mask_pictures=MaskPictures(folder / "sa1b", masks_per_picture=2, seed=5),
        box_pictures=boxes,
        rank=ranks.rank,
        num_ranks=ranks.count,
    )
    label_vectors = LabelVectors(
        boxes.vectors, boxes.label_counts, center=False, config=recipe.semantic_loss
    )
    return data, label_vectors


def new_trainer(
    folder: Path, recipe: SamRecipe, ranks: Ranks = ONE_PROCESS
) -> tuple[SamTrainer, TrainData]:
    torch.manual_seed(0)
    data, label_vectors = open_data(folder, recipe, ranks)
    return SamTrainer(
        recipe, SemanticSam(recipe.network), label_vectors=label_vectors, ranks=ranks
    ), data


def masks_of(model: SemanticSam) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a network's output for a fixed picture."""
    image = torch.randint(0, 255, (3, 64, 64), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        output = model.decode(
            model.embed_images([image]),
            Prompts(torch.tensor([0, 0]), boxes=torch.tensor([[4.0, 4, 30, 30], [20, 10, 60, 50]])),
            multimask_output=True,
        )
    return output.mask_logits, output.iou_predictions


def test_isolated_new_tokens_learn_and_the_masks_stay_equal_to_the_bit(folder: Path) -> None:
    trainer, data = new_trainer(folder, RECIPE)
    before = masks_of(trainer.model)
    token = trainer.model.mask_decoder.semantic_tokens.weight
    started = token.detach().clone()
    for number in range(20):
        trainer.step([data[number]])
    after = masks_of(trainer.model)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert not torch.equal(token, started)


def test_joint_training_moves_masks_and_all_that_it_may(folder: Path) -> None:
    trainer, data = new_trainer(folder, JOINT)
    before = masks_of(trainer.model)
    figures = trainer.step([data[0]])
    assert not torch.equal(before[0], masks_of(trainer.model)[0])
    assert figures["norm_old"] > 0
    assert {"focal", "dice", "iou", "contrast", "regression", "similarity"} <= set(figures)


def test_a_run_that_stops_goes_on_as_if_it_had_not(folder: Path) -> None:
    recipe = replace(JOINT, ema_decay=0.9)
    straight, data = new_trainer(folder, recipe)
    expected = [straight.step([data[n]])["loss"] for n in range(4)]
    first, _ = new_trainer(folder, recipe)
    losses = [first.step([data[n]])["loss"] for n in range(2)]
    second, _ = new_trainer(folder, recipe)
    second.load_state(first.state())
    losses += [second.step([data[n]])["loss"] for n in range(2, 4)]
    assert losses == expected
    theirs = straight.average.weights
    assert all(torch.equal(theirs[n], t) for n, t in second.average.weights.items())


def test_hard_negatives_are_heard_where_the_recipe_says_so(folder: Path) -> None:
    trainer, data = new_trainer(folder, EXACT)
    batch = data[0]
    assert trainer.label_vectors is not None
    carried = {name for names in batch.boxes.labels for name in names}
    strange = tuple(name for name in trainer.label_vectors.vectors if name not in carried)
    assert strange
    negatives = (strange,) + ((),) * (len(batch.boxes.labels) - 1)
    told = batch._replace(boxes=batch.boxes._replace(negatives=negatives))

    def contrast(recipe: SamRecipe, batch: TrainBatch) -> float:
        return new_trainer(folder, recipe)[0].step([batch])["contrast"]

    assert contrast(EXACT, told) == contrast(EXACT, batch)
    hearing = replace(EXACT, hard_negatives=True)
    assert contrast(hearing, batch) == contrast(EXACT, batch)
    assert contrast(hearing, told) > contrast(EXACT, batch)


def test_accumulated_batches_are_one_step(folder: Path) -> None:
    trainer, data = new_trainer(folder, RECIPE)
    trainer.step([data[0], data[1]])
    assert trainer.num_steps == 1


def _step_as_rank(ranks: Ranks, folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    trainer, data = new_trainer(folder, EXACT, ranks)
    losses = [trainer.step([data[0]])["loss"]]
    gradients = {name: each.grad.clone() for name, each in trainer.learned.items()}
    losses += [trainer.step([data[n]])["loss"] for n in range(1, 3)]
    torch.save({"losses": losses, "gradients": gradients}, out / f"rank-{ranks.rank}.pt")


def test_two_gloo_processes_do_what_one_does_on_the_whole_batch(
    folder: Path, tmp_path: Path
) -> None:
    run_ranks(_step_as_rank, folder, tmp_path, count=2)
    alone, data = new_trainer(folder, EXACT)
    losses = [alone.step([data[0]])["loss"]]
    gradients = {name: each.grad.clone() for name, each in alone.learned.items()}
    losses += [alone.step([data[n]])["loss"] for n in range(1, 3)]
    parts = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
    together = [sum(pair) / 2 for pair in zip(*(part["losses"] for part in parts), strict=True)]
    assert together[0] == pytest.approx(losses[0], rel=1e-5)
    # Adam amplifies gradients that are zero up to rounding.
    assert together == pytest.approx(losses, rel=5e-3)
    for name, gradient in gradients.items():
        assert torch.equal(parts[0]["gradients"][name], parts[1]["gradients"][name])
        difference = (parts[0]["gradients"][name] - gradient).abs().max()
        assert difference < ONE_PROCESS_TOLERANCE, name


def test_kept_embeddings_are_made_once_and_know_their_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SemanticSam(SemanticSamConfig(sam=sam_config("tiny"))).eval()
    images = [
        torch.full((3, 64, 48), 90, dtype=torch.uint8),
        torch.zeros(3, 64, 64, dtype=torch.uint8),
    ]
    kept = KeptEmbeddings(tmp_path, model)
    first = kept.embed(images, ["a", "b"])
    assert torch.allclose(first, model.embed_images(images), atol=1e-2)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert torch.equal(kept.embed(images, ["a", "b"]), first)
    assert sorted(tmp_path.rglob("*.safetensors")) == files
    with torch.no_grad():
        model.image_encoder.pos_embed.add_(1)
    assert not torch.equal(KeptEmbeddings(tmp_path, model).embed(images, ["a", "b"]), first)


def test_points_are_picked_inside_their_mask() -> None:
    masks = torch.full((3, 4, 4), -1.0)
    masks[0, 1, 2] = 1
    masks[1, 2:, :] = 1
    points, has_mask = pick_points(masks, torch.tensor([0.9, 0.0, 0.5]))
    assert points[0].tolist() == [2, 1]
    assert points[1].tolist() == [0, 2]
    assert has_mask.tolist() == [True, True, False]
    last, _ = pick_points(masks, torch.tensor([0.0, 0.999, 0.0]))
    assert last[1].tolist() == [3, 3]


def test_the_extent_of_a_mask_is_compared_with_the_box() -> None:
    masks = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    masks[0, 0, 1:3, 1:3] = True
    overlap = extent_iou(masks, torch.tensor([[1.0, 1, 3, 3]]))
    assert overlap.tolist() == [[1.0, 0.0]]


def test_early_layers_of_the_encoder_learn_slowest() -> None:
    recipe = replace(JOINT, layer_decay=0.5, lr_encoder=1.0)
    model = SemanticSam(recipe.network)
    assert learning_rate("image_encoder.neck.0.weight", model, recipe) == 1.0
    assert learning_rate("image_encoder.blocks.1.mlp.lin1.weight", model, recipe) == 0.5
    assert learning_rate("image_encoder.pos_embed", model, recipe) == 0.125
    assert learning_rate("mask_decoder.similarity_token.weight", model, recipe) == recipe.lr_new


def test_the_factor_on_cosines_and_a_stems_mixes_have_rates_of_their_own() -> None:
    recipe = replace(JOINT, lr_scale=0.3, lr_mix=0.2)
    model = SemanticSam(recipe.network)
    assert learning_rate("mask_decoder.logit_scale", model, recipe) == 0.3
    assert learning_rate("image_encoder.mix_4.weight", model, recipe) == 0.2


def test_rates_warm_up_and_fall_to_their_last_share() -> None:
    recipe = replace(RECIPE, steps=100, warmup_steps=10, final_lr_share=0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    optimizer.param_groups[0]["base_lr"] = 1.0
    assert set_rates(optimizer, 0, recipe) == pytest.approx(0.1, abs=0.01)
    assert set_rates(optimizer, 100, recipe) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "name",
    [
        "small-sam-coarse",
        "small-sam",
        "small-sam-fine",
        "small-semantic",
        "readout",
        "thesis",
        "smoke",
    ],
)
def test_every_recipe_is_named_after_itself(name: str) -> None:
    assert sam_recipe(name).name == name


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(
        InvalidInput, match="small-sam, small-sam-coarse, small-sam-fine, small-semantic"
    ):
        sam_recipe("large")
