"""Options that several commands share: each is declared and explained once.

A module of its own because a command must not import the module of another one.
"""

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Option("--dir", help="Workspace folder: data, runs, logs.")]
GatewayUrl = Annotated[
    str | None, typer.Option("--url", help="URL of the gateway of a running stack.")
]
SegmenterUrl = Annotated[
    str | None, typer.Option("--url", help="URL of a gateway or segmenter (default: run here).")
]
MovedData = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder that now contains the runs' sources, if they were moved.",
        exists=True,
        file_okay=False,
    ),
]
