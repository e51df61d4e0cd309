import numpy as np

from bench.cache import boxes_question, growth_figures, is_whole, kill_figures, written


def test_killed_writers_leave_nothing_torn_that_is_read(tmp_path):
    figures = kill_figures(tmp_path, 20)
    assert figures["torn_accepted"] == 0 and figures["kills"] == 20
    assert figures["kept_and_read"] + figures["kills_in_mid_write"] > 0


def test_what_is_written_for_an_id_is_told_from_anything_else():
    one, other = f"{1:064x}", f"{2:064x}"
    assert is_whole(one, written(one)) and not is_whole(one, written(other))
    assert not is_whole(one, {"image_embedding": written(one)["image_embedding"][:-1]})


def test_the_memory_of_many_pictures_is_bounded():
    figures = growth_figures(120, bound_mib=4)
    assert 0.9 < figures["held_over_bound"] <= 1
    assert figures["pictures"] == 120


def test_five_boxes_are_asked_whatever_a_scene_shows():
    pixels = np.zeros((64, 96, 3), dtype=np.uint8)
    for boxes in ([], [(1, 1, 9, 9)] * 9):
        assert len(boxes_question(boxes, pixels).queries) == 5
