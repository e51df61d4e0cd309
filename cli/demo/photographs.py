"""`unspoken demo --photographs`: label eight photographs by the profile `base`, and show them.

The small models know emoji art only. The photographs and their licences are in the folder
`photographs` beside this module.
"""

import math
import shutil
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from cli.demo.demo import clear, label_source, show_rows, stay_up
from cli.demo.queries import ask_for_words
from cli.labelling import running_stack
from cli.local.launcher import StackConfig
from unspoken.config.profiles import Profile, load_profile, resolve_files
from unspoken.config.services import GATEWAY, port_by_service
from unspoken.config.settings import ProcessSettings
from unspoken.errors import MissingWeights
from unspoken.runs.dataset.shards import iter_rows
from unspoken.runs.exports.source import LabelledPictures

PHOTOGRAPHS = Path(__file__).with_name("photographs")
PROFILE = "base"
RUN_ID = SOURCE = "photographs"
MBIT_PER_S = 100
"""Speed of a network for the estimate of a download's duration."""


def label_photographs(out: Path, *, stay: bool, console: Console) -> None:
    """Label and draw the photographs; `stay` keeps the stack up until Ctrl-C.

    Writes out/report/, out/pictures/, out/queries/ and out/runs/photographs/dataset/. Raises
    MissingWeights if a model is missing, Conflict as `run_demo` does.
    """
    settings = ProcessSettings()
    profile = load_profile(PROFILE, models_file=settings.models_file)
    with console.status("checking the hashes of the models"):
        check_weights(profile, cache_dir=settings.cache_dir)
    clear(out)
    data_dir = out / "data"
    shutil.copytree(PHOTOGRAPHS, data_dir / SOURCE, ignore=shutil.ignore_patterns("*.md"))
    config = StackConfig(folder=out, data_dir=data_dir, runs_dir=out / "runs", profile=PROFILE)
    if stay:
        config = replace(config, port_by_service=port_by_service())
    with running_stack(config, console, resume="run the same command to restart the demo") as stack:
        label_source(stack, SOURCE, run_id=RUN_ID, console=console)
        run_dir = out / "runs" / RUN_ID
        rows = list(iter_rows(run_dir / "dataset"))
        show_rows(out, rows, run_id=RUN_ID, console=console)
        ask_for_words(
            rows,
            LabelledPictures(run_dir, root=data_dir).read,
            out / "queries",
            profile=profile,
            url=stack.urls[GATEWAY.name],
            console=console,
        )
        if stay:
            stay_up(stack, console)


def check_weights(profile: Profile, *, cache_dir: Path) -> None:
    """Raise MissingWeights, which says how to fetch missing models, how large they are, how long.

    Nothing is downloaded.
    """
    missing = {}
    for source in profile.sources:
        try:
            resolve_files(source, cache_dir=cache_dir)
        except MissingWeights as error:
            missing[source.source] = (source.gigabytes, error)
    gigabytes = sum(size for size, _ in missing.values())
    if missing and not gigabytes:  # a damaged file or a folder of one's own: the error says which
        raise next(error for _, error in missing.values())
    if missing:
        minutes = math.ceil(gigabytes * 8000 / MBIT_PER_S / 60)
        raise MissingWeights(
            f"the photographs need the models of the profile {profile.name!r}, because the small "
            f"ones know emoji art only: run `unspoken weights fetch {profile.name}`, which "
            f"downloads {gigabytes:.1f} GB (about {minutes} minutes at {MBIT_PER_S} Mbit/s), then "
            "this command again"
        )
