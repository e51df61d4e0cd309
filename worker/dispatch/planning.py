"""Plans a run: records the models, the templates and the options, and divides rows into chunks."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from unspoken.errors import NotFound, PlanDamaged
from unspoken.imaging.images import ONE_WHITE_PIXEL, read_picture
from unspoken.ports import CropRanker, Detector, Prompter, TextEncoder
from unspoken.runs.location import SourceLocation, locate_source
from unspoken.runs.plan import (
    LabelConfig,
    ListedRow,
    Plan,
    default_threshold,
    make_plan,
    read_plan,
    write_plan,
)
from unspoken.runs.store import Run
from unspoken.wire.crops import Crop
from unspoken.wire.segment import PromptBox
from worker.dispatch.failed_rows import FailedRows
from worker.label.filters import duplicate_finder
from worker.sources.intake import list_source

logger = logging.getLogger(__name__)

_CAPTION = "a photo"
_WHITE_CROP = Crop(box=PromptBox(x0=0, y0=0, x1=1, y1=1), label_index=0)


@dataclass(frozen=True)
class Services:
    """Services that the dispatcher calls, to plan runs and to write their labels."""

    prompter: Prompter
    detector: Detector
    text_encoder: TextEncoder
    crop_ranker: CropRanker


def read_or_make_plan(
    run: Run, *, runs_dir: Path, data_dir: Path | None, services: Services
) -> Plan:
    """Return the plan of a run; make it first if there is none or it is damaged.

    See `plan_run` for the errors.
    """
    run_dir = runs_dir / run.run_id
    try:
        return read_plan(run_dir)
    except NotFound:
        logger.info("planning")
    except PlanDamaged as error:
        # The same source gives an identical plan; `write_plan` refuses a different one.
        logger.warning("replanning: %s", error)
    location = locate_source(run, runs_dir=runs_dir, data_dir=data_dir)
    plan_run(run, location, runs_dir=runs_dir, services=services)
    return read_plan(run_dir)


def plan_run(run: Run, location: SourceLocation, *, runs_dir: Path, services: Services) -> None:
    """Make and write the plan. Raises the services' errors, InvalidInput, Conflict, OSError.

    Raises SourceAway if the source is not available; the run then waits for it.
    """
    location.check_present(may_be_empty=True)
    options = run.options
    if options.box_threshold is None or options.box_threshold == "auto":
        threshold = default_threshold(services.detector.box_threshold)
    else:
        threshold = options.box_threshold
    # Checked before planning, because an unknown template would fail every picture.
    (proposal,) = services.prompter.propose([_CAPTION], templates=options.templates)
    if options.crop_check:
        # Checked likewise: the crop check needs an encoder of pictures that loads.
        picture = read_picture(ONE_WHITE_PIXEL)
        services.crop_ranker.rank_crops(picture, [_WHITE_CROP], [_CAPTION])
    plan = make_plan(
        run.run_id,
        _listing(run, location, runs_dir=runs_dir),
        config=LabelConfig(options=options, named_threshold=threshold),
        models={
            "llm": services.prompter.model,
            "detector": services.detector.model,
            "text_encoder": services.text_encoder.model,
        },
        prompt_sha256=proposal.prompt_sha256,
    )
    write_plan(runs_dir / run.run_id, plan)


def _listing(
    run: Run, location: SourceLocation, *, runs_dir: Path
) -> Iterator[tuple[str, Iterable[ListedRow]]]:
    list_files = partial(
        list_source, location.source, root=location.root, pictures=location.pictures
    )
    if run.source is not None:
        list_files = partial(list_files, runs_dir=runs_dir)
    if run.retry_of is None:
        yield from list_files(is_duplicate=duplicate_finder(run.options.filters))
        return
    # No search for duplicates: the first run dropped them, so the failed rows contain none.
    failed = FailedRows(runs_dir / run.retry_of, run.shards_folder)
    for name, rows in list_files():
        yield name, failed.among(name, rows)
