import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from smallworld.pictures import contact_sheet
from smallworld.sa1b import write_sa1b
from smallworld.scenes import SceneConfig, compose_scene
from smallworld.shards import compose_sample, write_shards, write_world
from tests.smallworld.tiny_world import tiny_world
from unspoken.errors import Conflict, InvalidInput

SMALL = SceneConfig(size_px=64, min_visible_px=16, min_part_px=8)
NUM_SCENES, SCENES_PER_SHARD, SEED = 25, 10, 7
LAION_COLUMNS = [
    "URL",
    "TEXT",
    "LANGUAGE",
    "NSFW",
    "punsafe",
    "pwatermark",
    "similarity",
    "WIDTH",
    "HEIGHT",
    "hash",
    "key",
    "status",
    "error_message",
    "width",
    "height",
    "original_width",
    "original_height",
    "sha256",
]


def write_small(out: Path, *, seed: int = SEED) -> Path:
    write_shards(
        out,
        tiny_world(),
        num_scenes=NUM_SCENES,
        seed=seed,
        scenes_per_shard=SCENES_PER_SHARD,
        scene_config=SMALL,
    )
    return out


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_small(tmp_path_factory.mktemp("shards"))


def read_all(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(shards, tmp_path):
    assert read_all(write_small(tmp_path / "again")) == read_all(shards)
    assert read_all(write_small(tmp_path / "other", seed=8)) != read_all(shards)


def test_scenes_are_spread_over_shards_with_img2dataset_names(shards):
    names = {f"{shard:05d}{tail}" for shard in range(3) for tail in (".tar", ".parquet")}
    assert names <= {path.name for path in shards.iterdir()}
    table = pq.read_table(shards / "00002.parquet")
    assert table.column("key").to_pylist() == [f"00002{place:04d}" for place in range(5)]
    stats = json.loads((shards / "00001_stats.json").read_text())
    assert (stats["count"], stats["successes"]) == (10, 10)


def test_a_plain_tar_reader_finds_picture_text_and_json_of_each_key(shards):
    rows = {row["key"]: row for row in pq.read_table(shards / "00000.parquet").to_pylist()}
    with tarfile.open(shards / "00000.tar") as tar:
        names = tar.getnames()
        assert names == [f"{key}{ext}" for key in rows for ext in (".jpg", ".txt", ".json")]
        for key, row in rows.items():
            jpeg = tar.extractfile(f"{key}.jpg").read()
            assert Image.open(io.BytesIO(jpeg)).size == (row["width"], row["height"]) == (64, 64)
            assert hashlib.sha256(jpeg).hexdigest() == row["sha256"]
            assert tar.extractfile(f"{key}.txt").read().decode() == row["TEXT"]
            about = json.loads(tar.extractfile(f"{key}.json").read())
            assert about["caption"] == row["TEXT"]
            assert about["LANGUAGE"] == row["LANGUAGE"]


def test_the_table_has_the_columns_of_laion_and_img2dataset(shards):
    table = pq.read_table(shards / "00000.parquet")
    assert table.column_names == LAION_COLUMNS
    assert set(table.column("status").to_pylist()) == {"success"}
    assert min(table.column("similarity").to_pylist()) >= 0.28
    assert max(table.column("pwatermark").to_pylist()) < 0.8


def test_the_truth_file_holds_the_masks_of_the_scene(shards):
    lines = (shards / "00001.truth.jsonl").read_text().splitlines()
    assert len(lines) == SCENES_PER_SHARD
    truth = json.loads(lines[2])
    sample = compose_sample(
        tiny_world(), 12, seed=SEED, scenes_per_shard=SCENES_PER_SHARD, scene_config=SMALL
    )
    assert truth["key"] == sample.scene.key == "000010002"
    assert truth["named"] == list(sample.caption.named)
    assert len(truth["objects"]) == len(sample.scene.objects)
    for told, real in zip(truth["objects"], sample.scene.objects, strict=True):
        assert (told["label"], told["parent"], told["is_part"]) == (
            real.label,
            real.parent,
            real.is_part,
        )
        assert tuple(told["box_xyxy"]) == real.box_xyxy
        assert np.array_equal(coco_mask.decode(told["mask"]).astype(bool), real.mask)


def test_sa1b_masks_decode_to_the_scenes_and_carry_no_label(tmp_path):
    scenes = [compose_scene(tiny_world(), seed=seed, config=SMALL) for seed in range(3)]
    folder = write_sa1b(tmp_path, scenes, seed=0)
    assert {path.name for path in folder.iterdir()} == {
        f"sa_{number}.{ext}" for number in (1, 2, 3) for ext in ("jpg", "json")
    }
    for number, scene in enumerate(scenes, start=1):
        about = json.loads((folder / f"sa_{number}.json").read_text())
        file_name = f"sa_{number}.jpg"
        expected = {"image_id": number, "width": 64, "height": 64, "file_name": file_name}
        assert about["image"] == expected
        for told, real in zip(about["annotations"], scene.objects, strict=True):
            assert set(told) == {
                "id",
                "segmentation",
                "bbox",
                "area",
                "predicted_iou",
                "stability_score",
                "crop_box",
                "point_coords",
            }
            mask = coco_mask.decode(told["segmentation"]).astype(bool)
            assert np.array_equal(mask, real.mask)
            assert told["area"] == mask.sum() == coco_mask.area(told["segmentation"])
            assert told["bbox"] == coco_mask.toBbox(told["segmentation"]).tolist()
            ((x, y),) = told["point_coords"]
            assert mask[int(y), int(x)]


def test_a_contact_sheet_shows_every_scene_and_refuses_none():
    scenes = [compose_scene(tiny_world(), seed=seed, config=SMALL) for seed in range(5)]
    sheet = contact_sheet(scenes, captions=["a long caption " * 9] * 5, num_columns=2)
    assert sheet.width > 2 * 128
    assert sheet.height > 3 * 128
    with pytest.raises(InvalidInput, match="at least one scene"):
        contact_sheet([])
    with pytest.raises(InvalidInput, match="as many captions"):
        contact_sheet(scenes, captions=["one"])


def test_a_whole_world_is_written_once_and_never_over_another(tmp_path):
    out = tmp_path / "world"
    tars = write_world(out, num_scenes=5, seed=1, styles=("twemoji",), scene_config=SMALL)
    assert tars == (out / "shards" / "00000.tar",)
    assert len(list((out / "sa1b" / "sa_000000").glob("*.jpg"))) == 2
    with Image.open(out / "contact-sheet.jpg") as sheet:
        assert sheet.format == "JPEG"
    with pytest.raises(Conflict, match="is not an empty folder"):
        write_world(out, num_scenes=5, seed=1)
    with pytest.raises(InvalidInput, match="num_scenes"):
        write_world(tmp_path / "none", num_scenes=0, seed=1)
