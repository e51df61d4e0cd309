"""Bombs and malformed pictures are refused quickly with a 4xx; the next picture is served."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.security.attacks.bombs import MAX_GROWN_MIB, MAX_S
from tests.security.attacks.pictures import (
    BORNE,
    GOOD_PNG,
    REFUSED,
    encode,
    exif_of_tags,
    jpeg_with,
    segment,
)
from unspoken.imaging.encoded_picture import read_orientation, strip_metadata
from unspoken.imaging.images import decode_picture


def test_every_bomb_is_refused_at_once_and_the_next_picture_is_served():
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.attacks.bombs"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["problems"] == []
    assert report["bombs"] >= 30
    assert report["slowest_s"] <= MAX_S, report["slowest"]
    assert report["grown_mib"] <= MAX_GROWN_MIB


@pytest.mark.parametrize("name", [name for name in BORNE if name.startswith("png")])
def test_what_nobody_needs_changes_no_pixel(name):
    assert np.array_equal(decode_picture(BORNE[name]()).pixels, decode_picture(GOOD_PNG).pixels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_plain_file_keeps_what_its_pixels_need(kind):
    plain = encode(kind)
    assert strip_metadata(plain) == (kind, plain, 1)


def test_the_first_orientation_counts():
    turned = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
    exif = [segment(0xE1, b"Exif\0\0" + tiff) for tiff in (turned, exif_of_tags(4, size=300))]
    assert strip_metadata(jpeg_with(*exif)).orientation == 6
    assert decode_picture(jpeg_with(*exif)).size_hw == (64, 48)


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"II*\0",
        b"MM\0*\0\0\0\x08",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
        b"JJ*\0",
    ],
    ids=range(6),
)
def test_broken_exif_turns_nothing(exif):
    assert read_orientation(exif) is None


def test_the_names_of_bombs_and_of_borne_ones_differ():
    assert not set(REFUSED) & set(BORNE)
