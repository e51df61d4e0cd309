"""Crops of boxes, and ranks of labels for them."""

import numpy as np
import pytest

from unspoken.errors import InvalidInput
from unspoken.imaging.crops import PAD_RGB, crop_windows, cut_crops, rank_labels


@pytest.mark.parametrize(
    ("box", "window"),
    [
        pytest.param((20, 20, 40, 30), (18, 19, 42, 31), id="a-tenth-more-on-each-side"),
        pytest.param((20.5, 20.5, 21, 21), (20, 20, 22, 22), id="whole-pixels"),
        pytest.param((0, 0, 100, 80), (0, 0, 100, 80), id="cut-at-the-edge"),
        pytest.param((90, 70, 120, 90), (87, 68, 100, 80), id="beyond-the-edge"),
    ],
)
def test_a_box_is_grown_about_its_middle_and_cut_at_the_pictures_edge(box, window):
    assert crop_windows(np.array([box]), (80, 100)).tolist() == [list(window)]


def test_no_boxes_have_no_windows_and_no_crops():
    assert crop_windows(np.zeros((0, 4)), (80, 100)).shape == (0, 4)
    pixels = np.zeros((80, 100, 3), dtype=np.uint8)
    assert cut_crops(pixels, np.zeros((0, 4)), side_px=32).shape == (0, 32, 32, 3)


@pytest.mark.parametrize("box", [(100, 0, 120, 9), (0, 80, 9, 90), (-20, 0, 0, 9)])
def test_a_box_wholly_outside_is_refused_by_its_number(box):
    with pytest.raises(InvalidInput, match="box 1 is outside"):
        crop_windows(np.array([(0, 0, 9, 9), box]), (80, 100))


def test_a_crop_shows_its_box_and_what_lies_around_it():
    pixels = np.zeros((80, 100, 3), dtype=np.uint8)
    pixels[20:40, 40:60] = 255
    (crop,) = cut_crops(pixels, np.array([(40, 20, 60, 40)]), side_px=24)
    assert crop.shape == (24, 24, 3)
    assert (crop[4:-4, 4:-4] == 255).all() and (crop[0] == 0).all() and (crop[:, -1] == 0).all()


@pytest.mark.parametrize("box", [(10, 10, 70, 20), (10, 10, 20, 70), (10, 10, 11, 79)])
def test_a_long_crop_keeps_its_proportions_within_the_mean_colour(box):
    pixels = np.full((80, 100, 3), 255, dtype=np.uint8)
    (crop,) = cut_crops(pixels, np.array([box]), side_px=48)
    is_pad = (crop == PAD_RGB).all(axis=2)
    assert ((crop == 255).all(axis=2) | is_pad).all()
    x0, y0, x1, y1 = crop_windows(np.array([box]), (80, 100))[0]
    share = min(x1 - x0, y1 - y0) / max(x1 - x0, y1 - y0)
    assert 1 - is_pad.mean() == pytest.approx(share, abs=1 / 48)
    assert not is_pad[24, 24] and is_pad[0, 0]


def test_even_a_hair_of_a_crop_has_a_pixel():
    pixels = np.full((4, 4000, 3), 255, dtype=np.uint8)
    (crop,) = cut_crops(pixels, np.array([(0, 1, 4000, 2)]), side_px=32)
    assert (crop == 255).all(axis=2).sum() == 32


def test_a_label_ranks_behind_those_that_are_more_like_the_crop():
    labels = np.eye(4)
    crops = np.array([[0.9, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.9]])
    assert rank_labels(crops, labels, np.array([0, 0])).tolist() == [1, 4]
    assert rank_labels(crops, labels, np.array([2, 2])).tolist() == [3, 2]
    assert rank_labels(crops[:0], labels, np.zeros(0, dtype=int)).tolist() == []


def test_a_rank_is_that_of_the_softmax_too():
    draw = np.random.default_rng(3)
    crops, labels = draw.normal(size=(7, 16)), draw.normal(size=(30, 16))
    own = draw.integers(0, 30, size=7)
    powers = np.exp(crops @ labels.T)
    shares = powers / powers.sum(axis=1, keepdims=True)
    by_share = [1 + (row > row[place]).sum() for row, place in zip(shares, own, strict=True)]
    assert rank_labels(crops, labels, own).tolist() == by_share
