"""Batches by number: exact counts, the network's frame, and equality for one and two ranks."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from smallworld.sa1b import write_sa1b
from smallworld.scenes import compose_scene
from smallworld.world import World
from tests.smallworld.tiny_world import tiny_world
from tests.training.true_dataset import SCENES, write_true_dataset
from training.data.batches import BatchConfig, TrainBatch, TrainData
from training.data.box_pictures import BoxPictures
from training.data.mask_pictures import MaskPictures
from training.data.unit_order import Units
from unspoken.errors import InvalidConfig, InvalidInput, NotFound
from unspoken.model.sam.config import sam_config
from unspoken.runs.dataset.shards import committed_records, read_shard, write_shard

SAM = sam_config("tiny")
CONFIG = BatchConfig(masks_per_step=6, boxes_per_step=8, masks_per_picture=3, seed=4)


@pytest.fixture(scope="module")
def world() -> World:
    return tiny_world()


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_true_dataset(tmp_path_factory.mktemp("data"), world, num_scenes=10)
    scenes = [compose_scene(world, seed=i, config=SCENES) for i in range(5)]
    write_sa1b(path / "sa1b", scenes, seed=1)
    return path


def data(folder: Path, *, config: BatchConfig = CONFIG, rank: int = 0, num_ranks: int = 1):
    return TrainData(
        config,
        sam=SAM,
        mask_pictures=MaskPictures(folder / "sa1b", masks_per_picture=3, seed=4),
        box_pictures=BoxPictures(
            folder / "dataset", pictures=folder / "pictures", boxes_per_picture=8, seed=4
        ),
        rank=rank,
        num_ranks=num_ranks,
    )


def test_every_step_has_exactly_the_mix_that_was_asked_for(folder: Path):
    batches = data(folder)
    for number in range(5):
        batch = batches[number]
        assert len(batch.masks.masks) == 6
        assert len(batch.boxes.labels) == 8


def test_the_same_number_gives_the_same_batch(folder: Path):
    first, again, other = data(folder)[3], data(folder)[3], data(folder)[4]
    assert all(torch.equal(a, b) for a, b in zip(first.images, again.images, strict=True))
    assert torch.equal(first.masks.noise, again.masks.noise)
    assert first.boxes.labels == again.boxes.labels
    assert first.keys != other.keys


def test_two_ranks_together_see_what_one_process_sees(folder: Path):
    whole = data(folder)[2]
    parts = [data(folder, rank=rank, num_ranks=2)[2] for rank in range(2)]
    for name in ("masks", "noise", "points", "boxes"):
        joined = torch.cat([getattr(part.masks, name) for part in parts])
        assert torch.equal(joined, getattr(whole.masks, name))
    assert sum((part.boxes.labels for part in parts), ()) == whole.boxes.labels
    assert torch.equal(torch.cat([p.boxes.draws for p in parts]), whole.boxes.draws)


def test_every_box_knows_what_its_own_picture_does_not_show(folder: Path, tmp_path: Path):
    dataset = Path(shutil.copytree(folder / "dataset", tmp_path / "dataset"))
    for path, _ in committed_records(dataset):
        rows = [
            row.model_copy(update={"negatives": (f"no {row.key}",)}) for row in read_shard(path)
        ]
        write_shard(path, rows)
    pictures = BoxPictures(dataset, pictures=folder / "pictures", boxes_per_picture=8, seed=4)
    config = replace(CONFIG, masks_per_step=0)
    batch = TrainData(config, sam=SAM, mask_pictures=None, box_pictures=pictures)[1]
    keys = [batch.keys[index] for index in batch.boxes.image_index.tolist()]
    assert len(set(keys)) > 1
    assert batch.boxes.negatives == tuple((f"no {key}",) for key in keys)


def test_masks_and_boxes_lie_in_the_frame_of_the_network(folder: Path):
    batch: TrainBatch = data(folder)[0]
    cell = SAM.image_size / SAM.mask_side
    for mask, box, point in zip(
        batch.masks.masks, batch.masks.boxes, batch.masks.points, strict=True
    ):
        rows, columns = (mask > 0.5).nonzero(as_tuple=True)
        if len(rows):
            assert box[0] - cell <= columns.min() * cell
            assert columns.max() * cell <= box[2]
        assert (box[:2] <= point).all()
        assert (point <= box[2:]).all()
    assert batch.masks.known.all()  # square pictures have no padding
    assert max(image.shape[-1] for image in batch.images) == SAM.image_size


def test_a_wide_picture_is_padded_below_and_the_padding_is_unknown(tmp_path: Path):
    mask = np.zeros((40, 80), bool)
    mask[10:30, 20:60] = True
    write_one_sa1b(tmp_path, mask)
    masks = MaskPictures(tmp_path, masks_per_picture=1, seed=0)
    config = BatchConfig(masks_per_step=1, boxes_per_step=0)
    batch = TrainData(config, sam=SAM, mask_pictures=masks, box_pictures=None)[0]
    half = SAM.mask_side // 2
    assert batch.masks.known[0, :half].all()
    assert not batch.masks.known[0, half:].any()
    assert torch.equal(batch.masks.boxes[0], torch.tensor([16.0, 8, 48, 24]))


def test_a_cell_on_the_edge_says_how_much_of_it_is_covered(tmp_path: Path):
    mask = np.zeros((64, 64), bool)
    mask[8:20, 8:21] = True  # 12 rows, 13 columns: half a cell of 2 pixels sticks out
    write_one_sa1b(tmp_path, mask)
    masks = MaskPictures(tmp_path, masks_per_picture=1, seed=0)
    config = BatchConfig(masks_per_step=1, boxes_per_step=0)
    found = TrainData(config, sam=SAM, mask_pictures=masks, box_pictures=None)[0].masks.masks[0]
    assert found.sum() == 12 * 13 / 4
    assert (found[4:10, 10] == 0.5).all()


def test_ranks_must_divide_the_step(folder: Path):
    with pytest.raises(InvalidConfig, match="masks_per_step must be a multiple of 4"):
        data(folder, num_ranks=4)


def test_a_kind_without_a_source_is_an_error():
    with pytest.raises(InvalidConfig, match="masks_per_step is 6, but there is no source"):
        TrainData(CONFIG, sam=SAM, mask_pictures=None, box_pictures=None)


def test_a_folder_without_masks_is_named(tmp_path: Path):
    with pytest.raises(NotFound, match="give an SA-1B folder"):
        MaskPictures(tmp_path, masks_per_picture=1, seed=0)


@pytest.mark.parametrize("changed", ["size_hw", "sha256"])
def test_a_picture_that_changed_since_it_was_labelled_is_refused(folder: Path, changed: str):
    boxes = BoxPictures(
        folder / "dataset", pictures=folder / "pictures", boxes_per_picture=8, seed=4
    )
    boxes.load(Units(0, (0,)))
    row = boxes._rows[0]
    if changed == "size_hw":
        boxes._rows[0] = replace(row, size_hw=(50, 50))
    else:
        boxes._rows[0] = replace(row, place=row.place._replace(sha256="ab" * 32))
    with pytest.raises(InvalidInput, match="is not the picture that was labelled"):
        boxes.load(Units(0, (0,)))


def test_pictures_are_not_read_outside_their_root(folder: Path, tmp_path: Path):
    boxes = BoxPictures(folder / "dataset", pictures=tmp_path, boxes_per_picture=8, seed=4)
    with pytest.raises(NotFound, match="are these the dataset's pictures"):
        boxes.load(Units(0, (0,)))


def test_masks_that_fill_the_picture_are_left_out(tmp_path: Path):
    write_one_sa1b(tmp_path, np.ones((40, 80), bool))
    with pytest.raises(InvalidInput, match="no mask to train on"):
        MaskPictures(tmp_path, masks_per_picture=1, seed=0).load(Units(0, (0,)))


def write_one_sa1b(folder: Path, mask: np.ndarray) -> None:
    from smallworld.pictures import encode_jpeg
    from smallworld.sa1b import encode_mask

    height, width = mask.shape
    (folder / "sa_1.jpg").write_bytes(encode_jpeg(np.zeros((height, width, 3), np.uint8)))
    record = {
        "image": {"image_id": 1, "width": width, "height": height, "file_name": "sa_1.jpg"},
        "annotations": [{"segmentation": encode_mask(mask), "area": int(mask.sum())}],
    }
    (folder / "sa_1.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("ratio", "shares"), [("1:4", (32, 128)), ("0:1", (0, 160)), ("1:1", (80, 80))]
)
def test_a_mix_shares_the_same_samples_out(ratio: str, shares: tuple[int, int]):
    config = BatchConfig(masks_per_step=32, boxes_per_step=128).mixed(ratio)
    assert (config.masks_per_step, config.boxes_per_step) == shares


@pytest.mark.parametrize("ratio", ["4", "1:0", "a:b", "1:6"])
def test_a_mix_that_is_none_is_refused(ratio: str):
    with pytest.raises(InvalidConfig, match=r"a mix is|cannot be divided"):
        BatchConfig(masks_per_step=32, boxes_per_step=128).mixed(ratio)
