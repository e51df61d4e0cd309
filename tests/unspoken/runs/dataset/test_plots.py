"""The card's plots: SVG that any viewer parses, with every number where it belongs."""

from xml.etree import ElementTree

import pytest
from PIL import ImageFont

from unspoken.runs.dataset.plots import (
    HEIGHT_PX,
    MAX_DOTS,
    WIDTH_PX,
    Curve,
    bar_plot,
    line_plot,
    rate_plot,
    zipf_plot,
)

SVG = "{http://www.w3.org/2000/svg}"


def dots(text):
    root = ElementTree.fromstring(text)
    return [(float(each.get("cx")), float(each.get("cy"))) for each in root.iter(f"{SVG}circle")]


def bars(text):
    root = ElementTree.fromstring(text)
    background, *rest = root.iter(f"{SVG}rect")
    assert background.get("width") == "100%"
    return [float(each.get("height")) for each in rest]


def test_no_label_gives_an_empty_plot():
    assert dots(zipf_plot([])) == []


def test_labels_of_a_power_law_lie_on_a_line():
    places = dots(zipf_plot([10_000 // rank for rank in (1, 10, 100)]))
    # Ranks 1, 2, 3 hold 10 000, 1 000 and 100 boxes: the heights are evenly spaced.
    (_, first), (_, second), (_, third) = places
    assert second - first == pytest.approx(third - second, abs=0.2)
    assert first < third


@pytest.mark.parametrize("frequencies", [[1], [10], [7, 7, 7], range(1, 50_001)])
def test_every_dot_is_inside_the_plot(frequencies):
    places = dots(zipf_plot(list(frequencies)))
    assert 0 < len(places) <= min(len(frequencies), MAX_DOTS + 1)
    assert all(0 <= x <= WIDTH_PX and 0 <= y <= HEIGHT_PX for x, y in places)


def test_a_bar_is_as_high_as_its_number():
    none, one, two, three = bars(bar_plot({1: 10, 3: 5}, title="t", across="a", up="u"))
    assert none == two == 0 and one == pytest.approx(2 * three)


def test_no_picture_gives_an_empty_bar():
    assert bars(bar_plot({}, title="t", across="a", up="u")) == [0]


def test_a_curve_is_cut_where_it_meets_its_limit():
    curves = [
        Curve("named", [(0.2, 0.9), (0.5, 0.1), (0.8, 0.0)], chosen=0.5),
        Curve("part", [], chosen=None),
    ]
    text = rate_plot(curves, limit=0.1, title="t", across="a", up="u")
    root = ElementTree.fromstring(text)
    line, empty = root.iter(f"{SVG}polyline")
    points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
    assert len(points) == 3 and empty.get("points") == ""
    assert dots(text) == [points[1]]
    (dashed,) = [each for each in root.iter(f"{SVG}path") if each.get("stroke-dasharray")]
    assert f" {points[1][1]}H" in dashed.get("d")
    assert [each.text for each in root.iter(f"{SVG}text")][-4:-2] == ["named", "part"]


def test_lines_of_any_size_fill_their_axes_and_round_numbers_stand_at_them():
    svg = line_plot(
        [Curve("few", [(0, 0), (8, 0.24)], chosen=8), Curve("fewer", [(0, 0), (4, 0.1)])],
        title="t",
        across="x",
        up="y",
    )
    root = ElementTree.fromstring(svg)
    words = [each.text for each in root.iter(f"{SVG}text")]
    assert words[0] == "t"
    assert words[1:6] == ["0", "2", "4", "6", "8"]
    assert words[6:11] == ["0", "0.05", "0.1", "0.15", "0.2"]
    assert "few" in words
    ((x, y),) = dots(svg)
    assert (x, y) == (WIDTH_PX - 28, 40)


@pytest.mark.parametrize("curves", [[], [Curve("none", [])], [Curve("flat", [(0, 0), (1, 0)])]])
def test_lines_without_anything_are_a_plot_all_the_same(curves):
    assert dots(line_plot(curves, title="t", across="x", up="y")) == []


def texts(svg: str) -> list[str]:
    return [each.text for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_every_plot_shows_its_title():
    for svg in (
        zipf_plot([3, 2, 1]),
        bar_plot({1: 10}, title="a < b & c", across="a", up="u"),
        rate_plot([], limit=0.1, title="a < b & c", across="a", up="u"),
        line_plot([], title="a < b & c", across="a", up="u"),
    ):
        assert texts(svg)[0] in ("How often each label occurs", "a < b & c")


@pytest.mark.parametrize(
    ("most", "ticks"),
    [
        (1, "1 2"),
        (7, "1 2 5 10"),
        (21, "1 2 5 10 20 50"),
        (50_000, "1 10 100 1,000 10,000 100,000"),
    ],
)
def test_axes_of_counts_are_no_longer_than_the_counts_need(most, ticks):
    expected = ticks.split()
    numbers = texts(zipf_plot([most]))[1:]
    assert numbers[2 : 2 + len(expected)] == expected


def test_bars_have_round_whole_numbers_at_their_axis():
    numbers = texts(bar_plot({0: 43, 1: 2}, title="t", across="a", up="u"))[1:]
    assert numbers[:5] == ["0", "10", "20", "30", "40"]
    assert texts(bar_plot({0: 2}, title="t", across="a", up="u"))[1:4] == ["0", "1", "2"]


def test_names_beside_lines_are_inside_the_plot():
    name = "nouns, many random labels"
    svg = line_plot([Curve(name, [(0, 0), (1, 1)])], title="t", across="x", up="y")
    (text,) = [e for e in ElementTree.fromstring(svg).iter(f"{SVG}text") if e.text == name]
    width_px = ImageFont.load_default(12).getlength(name)
    assert float(text.get("x")) + width_px <= float(ElementTree.fromstring(svg).get("width"))
