"""Write a small world to disk: captioned scenes in the format of img2dataset's LAION shards.

    shards/00000.tar            key.jpg, key.txt, key.json
    shards/00000.parquet        LAION's columns and img2dataset's
    shards/00000_stats.json
    shards/00000.truth.jsonl    ground truth: for evaluation, never read by the pipeline

The same arguments give the same bytes: no clock, no random key, no time stamp in the tar.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smallworld.captions import DEFAULT_CAPTIONS, Caption, CaptionConfig, write_caption
from smallworld.pictures import contact_sheet, encode_jpeg
from smallworld.sa1b import encode_mask, write_sa1b
from smallworld.scenes import (
    DEFAULT_SCENES,
    Scene,
    SceneConfig,
    compose_scene,
    unknown_part_labels,
)
from smallworld.world import Split, World
from unspoken.errors import Conflict, InvalidInput
from unspoken.progress import NO_PROGRESS, Progress, counted

# The two streams of scenes of one seed; they share no scene.
SHARD_STREAM, SA1B_STREAM = 0, 1
SHEET_SCENES = 24

COLUMNS = pa.schema(
    [
        ("URL", pa.string()),
        ("TEXT", pa.string()),
        ("LANGUAGE", pa.string()),
        ("NSFW", pa.string()),
        ("punsafe", pa.float64()),
        ("pwatermark", pa.float64()),
        ("similarity", pa.float64()),
        ("WIDTH", pa.int64()),
        ("HEIGHT", pa.int64()),
        ("hash", pa.int64()),
        ("key", pa.string()),
        ("status", pa.string()),
        ("error_message", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("original_width", pa.int64()),
        ("original_height", pa.int64()),
        ("sha256", pa.string()),
    ]
)


@dataclass(frozen=True)
class CaptionedScene:
    """A scene, its caption and its JPEG bytes: a sample of a shard."""

    scene: Scene
    caption: Caption
    jpeg: bytes


def write_world(
    out: Path,
    *,
    num_scenes: int,
    seed: int,
    num_sa1b: int | None = None,
    scenes_per_shard: int = 1000,
    styles: Sequence[str] = ("twemoji", "fluent"),
    split: Split = "train",
    scene_config: SceneConfig = DEFAULT_SCENES,
    caption_config: CaptionConfig = DEFAULT_CAPTIONS,
    progress: Progress = NO_PROGRESS,
) -> tuple[Path, ...]:
    """Write a small world: `out/shards/`, `out/sa1b/` and `out/contact-sheet.jpg`.

    Returns the tar files. `num_sa1b` pictures (by default a quarter of `num_scenes`) show other
    scenes of the same world. Raises Conflict if `out` is not empty, because shards of two worlds
    must not mix.
    """
    if num_scenes < 1:
        raise InvalidInput(f"num_scenes must be at least 1, got {num_scenes}")
    if seed < 0:
        raise InvalidInput(f"seed must not be negative, got {seed}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Conflict(f"{out} is not an empty folder; choose a new or an empty one")
    out.mkdir(parents=True, exist_ok=True)  # fails before the scenes are composed
    world = World.load(styles, split)
    tars = write_shards(
        out / "shards",
        world,
        num_scenes=num_scenes,
        seed=seed,
        scenes_per_shard=scenes_per_shard,
        scene_config=scene_config,
        caption_config=caption_config,
        progress=progress,
    )
    unlabelled = -(-num_scenes // 4) if num_sa1b is None else num_sa1b
    seeds = (stream_seed(seed, SA1B_STREAM, index) for index in range(unlabelled))
    scenes = (compose_scene(world, seed=each, config=scene_config) for each in seeds)
    with progress.stage("composing pictures without labels", total=unlabelled) as stage:
        write_sa1b(out / "sa1b", counted(scenes, stage), seed=seed)
    sheet = [
        compose_sample(
            world,
            index,
            seed=seed,
            scenes_per_shard=scenes_per_shard,
            scene_config=scene_config,
            caption_config=caption_config,
        )
        for index in range(min(num_scenes, SHEET_SCENES))
    ]
    contact_sheet(
        [each.scene for each in sheet], captions=[each.caption.text for each in sheet]
    ).save(out / "contact-sheet.jpg", quality=90)
    return tars


def write_shards(
    out: Path,
    world: World,
    *,
    num_scenes: int,
    seed: int,
    scenes_per_shard: int = 1000,
    scene_config: SceneConfig = DEFAULT_SCENES,
    caption_config: CaptionConfig = DEFAULT_CAPTIONS,
    progress: Progress = NO_PROGRESS,
) -> tuple[Path, ...]:
    """Write captioned scenes as img2dataset shards; return the tar files in order."""
    if scenes_per_shard < 1:
        raise InvalidInput(f"scenes_per_shard must be at least 1, got {scenes_per_shard}")
    out.mkdir(parents=True, exist_ok=True)
    tars = []
    with progress.stage("composing captioned pictures", total=num_scenes) as stage:
        for shard, first in enumerate(range(0, num_scenes, scenes_per_shard)):
            indices = range(first, min(first + scenes_per_shard, num_scenes))
            samples = (
                compose_sample(
                    world,
                    index,
                    seed=seed,
                    scenes_per_shard=scenes_per_shard,
                    scene_config=scene_config,
                    caption_config=caption_config,
                )
                for index in indices
            )
            tars.append(_write_shard(out, f"{shard:05d}", counted(samples, stage), seed=seed))
    return tuple(tars)


def compose_sample(
    world: World,
    index: int,
    *,
    seed: int,
    scenes_per_shard: int = 1000,
    scene_config: SceneConfig = DEFAULT_SCENES,
    caption_config: CaptionConfig = DEFAULT_CAPTIONS,
) -> CaptionedScene:
    """Compose the captioned scene at place `index` of the stream of `seed`.

    Its key is as in img2dataset: five digits of the shard and at least four of the place in it.
    """
    scene_seed = stream_seed(seed, SHARD_STREAM, index)
    scene = compose_scene(world, seed=scene_seed, config=scene_config)
    caption = write_caption(scene, world.classes, seed=scene_seed, config=caption_config)
    shard, place = divmod(index, scenes_per_shard)
    scene = replace(scene, key=f"{shard:05d}{place:04d}")
    return CaptionedScene(scene=scene, caption=caption, jpeg=encode_jpeg(scene.image))


def stream_seed(seed: int, stream: int, index: int) -> int:
    """Return a scene's seed. Unlike with `seed + index`, neighbouring streams share no scene."""
    return int(np.random.SeedSequence((seed, stream, index)).generate_state(1, np.uint64)[0])


def _write_shard(out: Path, name: str, samples: Iterator[CaptionedScene], *, seed: int) -> Path:
    """Write the four files of one shard, without holding all pictures in memory."""
    rows: list[dict[str, object]] = []
    tar_path = out / f"{name}.tar"
    with (
        tarfile.open(tar_path, "w", format=tarfile.USTAR_FORMAT) as tar,
        (out / f"{name}.truth.jsonl").open("w", encoding="utf-8") as truth,
    ):
        for sample in samples:
            row = _describe(sample, seed=seed)
            rows.append(row)
            key = sample.scene.key
            _add_member(tar, f"{key}.jpg", sample.jpeg)
            _add_member(tar, f"{key}.txt", sample.caption.text.encode())
            about = {"url": row["URL"], "caption": row["TEXT"], "exif": "{}", **row}
            _add_member(tar, f"{key}.json", json.dumps(about, ensure_ascii=False).encode())
            truth.write(json.dumps(describe_truth(sample), ensure_ascii=False) + "\n")
    pq.write_table(pa.Table.from_pylist(rows, schema=COLUMNS), out / f"{name}.parquet")
    stats = {
        "count": len(rows),
        "successes": len(rows),
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "duration": 0.0,
        "start_time": 0.0,
        "end_time": 0.0,
        "status_dict": {"success": len(rows)},
    }
    (out / f"{name}_stats.json").write_text(json.dumps(stats, indent=4), encoding="utf-8")
    return tar_path


def _describe(sample: CaptionedScene, *, seed: int) -> dict[str, object]:
    """Return one row of the parquet file: LAION's columns, then img2dataset's."""
    caption, key = sample.caption, sample.scene.key
    height, width = sample.scene.image.shape[:2]
    digest = hashlib.sha256(sample.jpeg).hexdigest()
    rng = np.random.default_rng((int(digest[:15], 16), seed))
    return {
        # A reserved name (RFC 2606) that never resolves.
        "URL": f"https://smallworld.invalid/{seed}/{key}.jpg",
        "TEXT": caption.text,
        "LANGUAGE": caption.language,
        "NSFW": caption.nsfw,
        "punsafe": caption.punsafe,
        "pwatermark": round(float(rng.beta(1, 12)) * 0.75, 4),  # below the usual limit of .8
        "similarity": round(float(rng.uniform(0.28, 0.42)), 4),  # LAION kept values from .28
        "WIDTH": width,
        "HEIGHT": height,
        "hash": int(digest[:15], 16),
        "key": key,
        "status": "success",
        "error_message": None,
        "width": width,
        "height": height,
        "original_width": width,
        "original_height": height,
        "sha256": digest,
    }


def describe_truth(sample: CaptionedScene) -> dict[str, object]:
    """Return one line of the truth file. Boxes are xyxy in pixels, masks compressed COCO RLE.

    `parent` is an index into `objects`. `unjudged_parts` are part names that an evaluation must
    ignore in this picture. `droppable` is true if the default filters must drop the row.
    """
    scene, caption = sample.scene, sample.caption
    return {
        "key": scene.key,
        "style": scene.style,
        "theme": scene.theme,
        "size_hw": list(scene.image.shape[:2]),
        "objects": [
            {
                "label": each.label,
                "box_xyxy": list(each.box_xyxy),
                "parent": each.parent,
                "is_part": each.is_part,
                "mask": encode_mask(each.mask),
            }
            for each in scene.objects
        ],
        "unjudged_parts": sorted(unknown_part_labels(scene)),
        "named": list(caption.named),
        "wrong": list(caption.wrong),
        "droppable": caption.is_droppable,
    }


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add bytes as a file with a fixed header, independent of time and user."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(content))
