"""Vendoring: packing the art is deterministic, and a missing picture is an error."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from smallworld.vendor_art import pack_fluent, pack_noto
from unspoken.errors import NotFound


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "1f697.webp").write_bytes(b"a car")
    (tmp_path / "assets" / "2600-fe0f.webp").write_bytes(b"a sun")
    (tmp_path / "chars.json").write_text(json.dumps({"1f697": "automobile", "2600-fe0f": "sun"}))
    icons = {"automobile": {"body": "<g/>"}, "sun": {"body": "<path/>"}}
    (tmp_path / "icons.json").write_text(json.dumps({"icons": icons, "width": 128, "height": 128}))
    return tmp_path


def test_pictures_are_found_with_and_without_the_presentation_selector(packages: Path) -> None:
    packed = pack_fluent(packages / "assets", codepoints=["2600", "1f697"])
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        assert tar.getnames() == ["1f697.webp", "2600.webp"]
    assert json.loads(pack_noto(packages, codepoints=["2600", "1f697"])) == {
        "1f697": "<g/>",
        "2600": "<path/>",
    }


def test_the_order_of_the_classes_does_not_change_the_bytes(packages: Path) -> None:
    assets = packages / "assets"
    forth = pack_fluent(assets, codepoints=["2600", "1f697"])
    assert forth == pack_fluent(assets, codepoints=["1f697", "2600"])


def test_a_class_without_a_picture_is_named(packages: Path) -> None:
    with pytest.raises(NotFound, match="1f999"):
        pack_fluent(packages / "assets", codepoints=["1f999"])
    with pytest.raises(NotFound, match="1f999"):
        pack_noto(packages, codepoints=["1f999"])
