"""Pictures with true masks and labels: small-world scenes, or a COCO-style folder."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO

from smallworld.scenes import Scene, compose_scene
from smallworld.world import Split, World
from unspoken.errors import InvalidInput, NotFound
from unspoken.imaging.images import decode_picture


@dataclass(frozen=True)
class TrueObject:
    """One labelled object: mask (H, W) bool, box xyxy in pixels."""

    label: str
    mask: np.ndarray
    box_xyxy: tuple[float, float, float, float]
    is_part: bool = False


@dataclass(frozen=True)
class TruePicture:
    """A picture (H, W, 3) uint8 with its labelled objects."""

    key: str
    pixels: np.ndarray
    objects: tuple[TrueObject, ...]


def scene_pictures(
    *, num_scenes: int, first_seed: int, style: str = "twemoji", split: Split = "train"
) -> Iterator[TruePicture]:
    """Yield scenes of the small world, with consecutive seeds."""
    world = World.load(styles=(style,), split=split)
    for number in range(num_scenes):
        yield of_scene(compose_scene(world, seed=first_seed + number))


def of_scene(scene: Scene) -> TruePicture:
    """Convert a scene, with its wholes and parts."""
    objects = tuple(
        TrueObject(
            each.label,
            each.mask,
            (
                float(each.box_xyxy[0]),
                float(each.box_xyxy[1]),
                float(each.box_xyxy[2]),
                float(each.box_xyxy[3]),
            ),
            each.is_part,
        )
        for each in scene.objects
    )
    return TruePicture(scene.key, scene.image, objects)


def coco_pictures(annotations: Path, images: Path, *, limit: int | None) -> Iterator[TruePicture]:
    """Read a COCO or LVIS instances file with its folder of pictures; crowds are skipped.

    Raises NotFound, and InvalidInput if the file is not of that format.
    """
    if not annotations.is_file():
        raise NotFound(f"no annotations at {annotations}")
    try:
        written = json.loads(annotations.read_bytes())
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{annotations} is not JSON: {error}") from error
    coco = COCO()
    coco.dataset = written
    coco.createIndex()
    names = {each["id"]: each["name"].replace("_", " ") for each in written["categories"]}
    for image_id in sorted(coco.imgs)[:limit]:
        record = coco.imgs[image_id]
        name = record.get("file_name") or Path(record["coco_url"]).name
        path = images / name
        if not path.is_file():
            raise NotFound(f"no picture {name} in {images}")
        objects = []
        for each in coco.imgToAnns[image_id]:
            if each.get("iscrowd"):
                continue
            x, y, width, height = each["bbox"]
            mask = coco.annToMask(each).astype(bool)
            if mask.any():
                box = (x, y, x + width, y + height)
                objects.append(TrueObject(names[each["category_id"]], mask, box))
        yield TruePicture(str(image_id), decode_picture(path.read_bytes()).pixels, tuple(objects))
