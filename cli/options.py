"""Options that several commands share: each is declared and explained once.

A module of its own because a command must not import the module of another one.
"""

from pathlib import Path
from typing import Annotated

import typer

Workspace = Annotated[
    Path,
    typer.Option("--workspace", metavar="DIR", help="Folder with runs, their datasets and logs."),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run in the workspace.")]
GatewayUrl = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="Gateway of a running stack, to use instead of a workspace."
    ),
]
SegmenterUrl = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="Running gateway or segmenter (default: load the models here)."
    ),
]
MovedTo = Annotated[
    Path | None,
    typer.Option(
        "--moved-to",
        metavar="DIR",
        help="Folder that the labelled pictures are in now, if they were moved since.",
        exists=True,
        file_okay=False,
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="Show no progress; warnings and results are still printed.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as one line of JSON on standard output.")
]
