"""`make pictures`: draw the example pictures and every picture of README and docs.

`examples/` gets captioned scenes of emoji art. `docs/pictures/` gets what the commands of the
tutorials make of them with the small models, and the plot of the table in docs/figures.md. The
screenshot needs chromium on PATH; without it, the earlier one stays.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from experiments.report.found_plot import draw_found, read_found
from smallworld.pictures import encode_jpeg
from smallworld.scenes import SceneConfig, compose_scene
from smallworld.world import World
from unspoken.imaging.drawing import add_caption
from unspoken.runs.dataset.false_discovery import SOURCES
from unspoken.runs.dataset.row_picture import draw_row
from unspoken.runs.dataset.shards import iter_rows

ROOT = Path(__file__).parent.parent
EXAMPLES, PICTURES = ROOT / "examples", ROOT / "docs" / "pictures"
FIGURES = ROOT / "docs" / "figures.md"
MAX_BYTES = 150_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
UNSPOKEN = (sys.executable, "-c", "from cli.main import main; main()")

SCENES = SceneConfig(
    size_px=384,
    num_wholes=(4, 5),
    object_side=(0.3, 0.5),
    rotation_deg=4,
    theme_p=1,
    twin_p=0,
    judged_p=1,
    num_placements=12,
)


class Example(NamedTuple):
    """An example picture: its scene, and a caption that names some of its objects."""

    theme: str
    seed: int
    caption: str
    nouns: tuple[str, ...] = ()
    """The objects to choose from; all of the theme if empty."""


STREET = (
    *("car", "taxi", "bus", "bicycle", "traffic light"),
    *("house", "dog", "tree", "fire engine", "cat"),
)
EXAMPLE_BY_NAME: Mapping[str, Example] = {
    "street": Example(
        "street",
        19,
        "A car parked in front of a house",
        STREET,
    ),
    "farm": Example("farm", 5, "A duck on the farm"),
    "desk": Example("desk", 2, "A camera and a laptop on the desk"),
    "kitchen": Example("kitchen", 3, "A teapot and a coffee cup in the kitchen"),
    "garden": Example("garden", 0, "A sunflower and a butterfly in the garden"),
}
QUERIES = ("house", "car", "wheel", "cat")


def main() -> None:
    """Write all pictures, and print the size of each."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    draw_examples()
    with tempfile.TemporaryDirectory(prefix="unspoken-pictures-") as folder:
        draw_labelled(Path(folder))
        draw_masks(Path(folder))
        draw_report(Path(folder))
    draw_found(read_found(FIGURES), PICTURES / "proposals.png")
    for path in sorted(PICTURES.iterdir()):
        sys.stdout.write(f"{path.relative_to(ROOT)}  {path.stat().st_size:,} bytes\n")


def draw_examples() -> None:
    """Write examples/NAME.jpg and its caption examples/NAME.txt."""
    EXAMPLES.mkdir(exist_ok=True)
    world = World.load(("twemoji",), glyph_px=SCENES.size_px)
    for name, example in EXAMPLE_BY_NAME.items():
        nouns = example.nouns or world.themes[example.theme]
        themed = replace(world, themes={example.theme: nouns})
        scene = compose_scene(themed, seed=example.seed, config=SCENES)
        (EXAMPLES / f"{name}.jpg").write_bytes(encode_jpeg(scene.image))
        (EXAMPLES / f"{name}.txt").write_text(f"{example.caption}\n", encoding="utf-8")


def draw_labelled(folder: Path) -> None:
    """Label the examples as a user would, and draw one picture before and after."""
    unspoken("label", str(EXAMPLES), "--workspace", str(folder / "work"))
    rows = iter_rows(folder / "work" / "runs" / "labels" / "dataset")
    by_name = {Path(row.key).stem: row for row in rows}
    shutil.copy(EXAMPLES / "street.jpg", PICTURES)
    picture = Image.open(EXAMPLES / "street.jpg").convert("RGB")
    after = add_caption(draw_row(by_name["street"], picture, scale=1), "", legend=SOURCES)
    both = Image.new("RGB", (2 * picture.width + 8, after.height), "white")
    both.paste(picture, (0, 0))
    both.paste(after, (picture.width + 8, 0))
    save(both, "before-after.jpg")


def draw_masks(folder: Path) -> None:
    """Ask for masks of the street as a user would."""
    street = EXAMPLES / "street.jpg"
    unspoken("segment", str(street), *QUERIES, "--threshold", "0.7", "--out", str(folder))
    with Image.open(folder / "street-masks.png") as masks:
        save(masks.convert("RGB"), "street-masks.jpg")


def draw_report(folder: Path) -> None:
    """Run the demo, and photograph its report in a headless browser, if one is installed."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        names = ", ".join(BROWSERS)
        sys.stdout.write(f"none of {names} is on PATH: report.jpg stays as it is\n")
        return
    unspoken("demo", "--out", str(folder / "demo"), "--exit")
    page = folder / "demo" / "report" / "index.html"
    screenshot = folder / "report.png"
    subprocess.run(
        (
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--window-size=1200,800", f"--screenshot={screenshot}", page.as_uri()),
        ),
        check=True,
        capture_output=True,
    )
    with Image.open(screenshot) as picture:
        save(picture.convert("RGB"), "report.jpg")


def unspoken(*arguments: str) -> None:
    """Run the command line of this tree in a process of its own."""
    subprocess.run((*UNSPOKEN, *arguments), cwd=ROOT, check=True)


def save(picture: Image.Image, name: str) -> None:
    """Write a JPEG into docs/pictures; lower its quality until it has at most MAX_BYTES."""
    path = PICTURES / name
    for quality in (90, 80, 70, 60, 50):
        picture.save(path, quality=quality, optimize=True)
        if path.stat().st_size <= MAX_BYTES:
            return


if __name__ == "__main__":
    main()
