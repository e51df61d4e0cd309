"""Duplicates are found when a run is planned, over all of its files."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.worker.source_files import CAPTIONS, picture, write_pictures, write_shard, write_table
from unspoken.imaging.images import decode_picture
from unspoken.runs.plan import LabelConfig, make_plan
from unspoken.wire.filters import FilterConfig
from unspoken.wire.label_options import LabelOptions
from worker.label.duplicates import SeenPictures, difference_hash
from worker.label.filters import duplicate_finder
from worker.sources.intake import list_source, read_chunk


def plan_of(source, *, root=None, chunk_size=5, **switches):
    options = LabelOptions(chunk_size=chunk_size, filters=FilterConfig(**switches))
    is_duplicate = duplicate_finder(options.filters)
    listing = list_source(source, root=root or source, is_duplicate=is_duplicate)
    config = LabelConfig(named_threshold=0.3, options=options)
    return make_plan("run", listing, config=config, models={})


def duplicates(source, **switches):
    return [
        (chunk.source, row)
        for chunk in plan_of(source, **switches).chunks
        for row in chunk.duplicates
    ]


def again(encoded, *, size, quality=60):
    """The same picture, scaled and compressed anew."""
    smaller = io.BytesIO()
    Image.open(io.BytesIO(encoded)).resize(size).save(smaller, "JPEG", quality=quality)
    return smaller.getvalue()


def test_a_picture_that_came_in_an_earlier_file_of_the_run_is_a_duplicate(tmp_path):
    write_shard(tmp_path / "00000.tar", CAPTIONS)
    write_shard(tmp_path / "00001.tar", CAPTIONS[:3], first_seed=10)
    assert duplicates(tmp_path) == [("00001.tar", 0), ("00001.tar", 1)]
    assert duplicates(tmp_path, drop_duplicates=False) == []
    chunk = plan_of(tmp_path).chunks[-1]
    rows = read_chunk(chunk, root=tmp_path)
    assert [row.problem for row in rows] == ["duplicate", "duplicate", None]
    assert [row.picture for row in rows] == [None, None, picture(12)]


def test_what_the_filters_drop_makes_no_duplicate_of_what_comes_after(tmp_path):
    columns = [
        {"LANGUAGE": language, "punsafe": punsafe}
        for language, punsafe in (("fr", 0.0), ("en", 0.9), ("en", 0.0))
    ]
    write_shard(tmp_path / "00000.tar", CAPTIONS[:3], columns=columns)
    write_shard(tmp_path / "00001.tar", CAPTIONS[:3])
    assert duplicates(tmp_path) == [("00001.tar", 2)]


def test_the_same_look_is_a_duplicate_only_where_it_is_asked_for(tmp_path):
    write_pictures(tmp_path, 3)
    (tmp_path / "3.jpg").write_bytes(again(picture(1), size=(150, 125)))
    (tmp_path / "4.jpg").write_bytes(b"no picture")
    write_table(tmp_path / "t.csv", [{"path": f"{i}.jpg", "text": CAPTIONS[i]} for i in range(5)])
    assert duplicates(tmp_path / "t.csv", root=tmp_path) == []
    assert duplicates(tmp_path / "t.csv", root=tmp_path, max_hash_distance=4) == [("t.csv", 3)]


def test_without_the_filter_no_picture_is_read_for_the_plan():
    assert duplicate_finder(FilterConfig(drop_duplicates=False)) is None


def test_a_look_outlives_scaling_and_compression_and_tells_others_apart():
    pixels = [decode_picture(picture(seed)).pixels for seed in range(40)]
    hashes = [difference_hash(each) for each in pixels]
    small = [
        difference_hash(decode_picture(again(picture(seed), size=(72, 60))).pixels)
        for seed in range(40)
    ]
    assert max((a ^ b).bit_count() for a, b in zip(hashes, small, strict=True)) <= 4
    others = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(others) > 8


@pytest.mark.parametrize("distance", [0, 3, 8])
def test_near_hashes_are_found_as_a_plain_search_finds_them(distance):
    generator = np.random.default_rng(0)
    base = generator.integers(0, 256, (8, 8), dtype=np.uint8)
    seen = SeenPictures(max_hash_distance=distance)
    kept: list[int] = []
    for _ in range(300):
        thumbnail = base.copy()
        places = generator.integers(0, 8, (3, 2))
        thumbnail[places[:, 0], places[:, 1]] = generator.integers(0, 256, 3)
        pixels = np.repeat(np.kron(thumbnail, np.ones((4, 4), np.uint8))[..., None], 3, axis=2)
        value = difference_hash(pixels)
        near = any((value ^ other).bit_count() <= distance for other in kept)
        assert seen.saw_look(pixels) == near
        kept += [] if near else [value]
    assert 1 < len(kept) < 300
