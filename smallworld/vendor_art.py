"""Rebuild the vendored art of the small world from two unpacked npm packages.

    npm pack @lobehub/fluent-emoji-3d@1.1.0    # MIT, unpack to FLUENT (its folder `package`)
    npm pack @iconify-json/noto@1.2.9          # Apache-2.0, unpack to NOTO (its folder `package`)
    python -m smallworld.vendor_art --fluent FLUENT --noto NOTO

writes `art/fluent.tar` (256 px webp files, untouched) and `art/noto.json` (codepoint -> SVG body)
for the classes of `classes.json`, byte for byte the same on every run. Licences: `art/NOTICE.md`.
"""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from smallworld.glyphs import load_classes
from unspoken.errors import NotFound

NOTO_VIEW_PX = 128  # every icon of the package shares this view box
DEFAULT_OUT = Path(__file__).parent / "art"


def pack_fluent(assets_folder: Path, *, codepoints: Iterable[str]) -> bytes:
    """Pack the webp pictures as a tar of `<codepoint>.webp`, without times and owners.

    Raises NotFound if the package lacks a codepoint.
    """
    paths = {_bare(path.stem): path for path in assets_folder.glob("*.webp")}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for codepoint in sorted(codepoints):
            if codepoint not in paths:
                raise NotFound(f"{assets_folder} has no picture of {codepoint}")
            picture = paths[codepoint].read_bytes()
            member = tarfile.TarInfo(f"{codepoint}.webp")
            member.size = len(picture)
            tar.addfile(member, io.BytesIO(picture))
    return buffer.getvalue()


def pack_noto(package_folder: Path, *, codepoints: Iterable[str]) -> str:
    """Pack JSON of codepoint -> SVG body, one per line.

    Raises NotFound if the package lacks a codepoint.
    """
    chars = json.loads((package_folder / "chars.json").read_text(encoding="utf-8"))
    icons = json.loads((package_folder / "icons.json").read_text(encoding="utf-8"))["icons"]
    names = {_bare(codepoint): name for codepoint, name in chars.items()}
    bodies = {}
    for codepoint in sorted(codepoints):
        if codepoint not in names:
            raise NotFound(f"{package_folder} has no icon for {codepoint}")
        icon = icons[names[codepoint]]
        assert {icon.get("width", NOTO_VIEW_PX), icon.get("height", NOTO_VIEW_PX)} == {NOTO_VIEW_PX}
        bodies[codepoint] = icon["body"]
    return json.dumps(bodies, indent=0) + "\n"


def _bare(codepoint: str) -> str:
    """Remove the emoji presentation selector, as in the names of the twemoji files."""
    return codepoint.lower().removesuffix("-fe0f")


def main(
    fluent: Annotated[Path, typer.Option(help="the unpacked @lobehub/fluent-emoji-3d")],
    noto: Annotated[Path, typer.Option(help="the unpacked @iconify-json/noto")],
    out: Annotated[Path, typer.Option(help="where the art goes")] = DEFAULT_OUT,
) -> None:
    """Write fluent.tar and noto.json for the classes of classes.json."""
    codepoints = [each.codepoint for each in load_classes()]
    out.mkdir(parents=True, exist_ok=True)
    (out / "fluent.tar").write_bytes(pack_fluent(fluent / "assets", codepoints=codepoints))
    (out / "noto.json").write_text(pack_noto(noto, codepoints=codepoints), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
