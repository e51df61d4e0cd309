"""The demo: labels captioned pictures on one machine, then scores and draws the dataset.

The pictures come from the small world, so their true content is known. The summary gives the share
of correct boxes, separately for what captions name and for what they imply.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from cli.demo.queries import ReadPicture, ask_for_words
from cli.demo.tables import label_table, phrase_table, source_table
from cli.gateway import gateway_client
from cli.labelling import follow, running_stack
from cli.local.launcher import Stack, StackConfig
from cli.progress import shown_progress
from cli.status_view import describe
from smallworld.shards import write_shards
from smallworld.truth import (
    judge_each,
    judged_boxes,
    load_synonyms,
    read_truth_files,
    shows,
    total_score,
)
from smallworld.world import World
from unspoken.config.services import GATEWAY, port_by_service
from unspoken.config.settings import ProcessSettings
from unspoken.errors import Conflict
from unspoken.imaging.drawing import add_caption, scale_to_width
from unspoken.progress import NO_PROGRESS, Progress, counted
from unspoken.runs import storage
from unspoken.runs.dataset.bias_page import BIAS_FILE, render_bias_page
from unspoken.runs.dataset.false_discovery import SOURCES
from unspoken.runs.dataset.manifest import count_dataset
from unspoken.runs.dataset.row_picture import draw_row
from unspoken.runs.dataset.rows import Row
from unspoken.runs.dataset.shards import iter_rows
from unspoken.runs.exports.report import PAGE_FILE, write_report
from unspoken.runs.exports.source import LabelledPictures
from unspoken.runs.files import write_json
from unspoken.runs.notice import describe_limits
from unspoken.runs.plan import read_plan
from unspoken.wire.runs import RunRequest, RunStatus

RUN_ID = "demo"
MARK = ".unspoken-demo"
# The small weights were trained on this style, and only this style has a truth for parts.
STYLE = "twemoji"


def run_demo(out: Path, *, num_images: int, seed: int, stay: bool, console: Console) -> None:
    """Compose pictures, label, score and draw them; `stay` keeps the stack up until Ctrl-C.

    Writes out/summary.json, out/bias.md, out/report/, out/pictures/, out/queries/ and
    out/runs/demo/dataset/. Raises Conflict if `out` contains anything but an earlier demo.
    """
    clear(out)
    data_dir = out / "data"
    write_shards(
        data_dir / "shards",
        World.load((STYLE,)),
        num_scenes=num_images,
        seed=seed,
        progress=shown_progress(console),
    )
    config = StackConfig(folder=out, data_dir=data_dir, runs_dir=out / "runs")
    if stay:
        config = replace(config, port_by_service=port_by_service())
    with running_stack(config, console, resume="run the same command to restart the demo") as stack:
        started = time.monotonic()
        status = label_source(stack, "shards", run_id=RUN_ID, console=console)
        seconds = time.monotonic() - started
        rows = _report(out, status, seconds=seconds, console=console)
        ask_for_words(
            rows,
            LabelledPictures(out / "runs" / RUN_ID, root=data_dir).read,
            out / "queries",
            profile=ProcessSettings().read_profile(),
            url=stack.urls["gateway"],
            console=console,
        )
        if stay:
            stay_up(stack, console)


def label_source(stack: Stack, source: str, *, run_id: str, console: Console) -> RunStatus:
    """Label a folder of the stack's data folder. Raises Conflict unless the run is then done."""
    runs = gateway_client(stack.urls[GATEWAY.name]).runs
    runs.create(RunRequest(source=source, run_id=run_id))
    status = follow(lambda: runs.read(run_id), console, each_poll=stack.revive)
    if status.state != "done":
        raise Conflict(f"{describe(status)}; logs in {stack.logs_dir}")
    return status


def stay_up(stack: Stack, console: Console) -> None:
    """Keep the stack up until Ctrl-C."""
    console.print(f"the stack is running at {stack.urls[GATEWAY.name]}/; Ctrl-C to stop")
    stack.watch()


def summarise(
    rows: Sequence[Row], status: RunStatus, shards: Path, *, seconds: float
) -> dict[str, object]:
    """Return the content of summary.json: the run's counts, and scores of its boxes."""
    labelled = [row for row in rows if row.status == "labelled"]
    kept = [annotation for row in labelled for annotation in row.kept]
    boxes = {row.key: judged_boxes(row.kept) for row in labelled}
    scores = judge_each(boxes, read_truth_files(shards))
    return {
        "images": len(rows),
        "labelled": len(labelled),
        "dropped": status.dropped,
        "failed": sum(status.failed.values()),
        "annotations": len(kept),
        "distinct_labels": len({each.label for each in kept}),
        "implied_annotations": sum(not each.named for each in kept),
        "seconds": round(seconds, 1),
        **total_score(scores.values()).figures(),
    }


def bias_page(rows: Sequence[Row], shards: Path, *, box_threshold: float) -> str:
    """Return the dataset's page on bias, which compares the detector with the truth."""
    truths, synonyms = read_truth_files(shards), load_synonyms()
    counts = count_dataset(
        rows,
        box_threshold=box_threshold,
        is_there=lambda row, label: shows(truths[row.key], label, synonyms=synonyms),
    )
    return render_bias_page(counts)


def draw_rows(
    rows: Sequence[Row], read: ReadPicture, out: Path, *, progress: Progress = NO_PROGRESS
) -> list[Path]:
    """Draw every labelled row; return the files, most boxes first."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    labelled = [row for row in rows if row.status == "labelled"]
    labelled.sort(key=lambda each: -len(each.kept))
    with progress.stage("drawing pictures", total=len(labelled)) as stage:
        for row in counted(labelled, stage):
            picture = Image.fromarray(read(row).pixels)
            path = out / f"{Path(row.key).name}.png"
            drawn = draw_row(row, picture, scale=scale_to_width(picture))
            add_caption(drawn, "", legend=SOURCES).save(path)
            written.append(path)
    return written


def _report(out: Path, status: RunStatus, *, seconds: float, console: Console) -> list[Row]:
    rows = list(iter_rows(out / "runs" / RUN_ID / "dataset"))
    plan = read_plan(out / "runs" / RUN_ID)
    summary = summarise(rows, status, out / "data" / "shards", seconds=seconds)
    if limits := describe_limits([plan.models["detector"].revision]):
        summary["note"] = limits
    write_json(out / "summary.json", summary)
    threshold = plan.config.named_threshold
    bias = bias_page(rows, out / "data" / "shards", box_threshold=threshold)
    storage.replace(out / BIAS_FILE, bias.encode())
    show_rows(out, rows, run_id=RUN_ID, console=console)
    facts = Table(title="summary", show_header=False)
    for name, value in summary.items():
        facts.add_row(name, str(value))
    console.print(facts)
    console.print(f"summary               {out / 'summary.json'}")
    console.print(f"labels never found    {out / BIAS_FILE}")
    return rows


def show_rows(out: Path, rows: Sequence[Row], *, run_id: str, console: Console) -> None:
    """Write out/report/ and out/pictures/ of a run, and print tables and the paths."""
    run_dir = out / "runs" / run_id
    progress = shown_progress(console)
    write_report(run_dir, out / "report", pictures=out / "data", progress=progress)
    read = LabelledPictures(run_dir, root=out / "data").read
    pictures = draw_rows(rows, read, out / "pictures", progress=progress)
    for table in (label_table(rows), source_table(rows), phrase_table(rows)):
        if table is not None:
            console.print(table)
    if pictures:
        example = f"({len(pictures)}), e.g. {pictures[0]}"
        console.print(f"pictures with boxes   {out / 'pictures'} {example}")
    console.print(f"dataset and card      {run_dir / 'dataset'}")
    console.print(f"HTML report           {out / 'report' / PAGE_FILE}")
    console.print(f"{out} is a workspace: unspoken status --workspace {out}", soft_wrap=True)


def clear(out: Path) -> None:
    """Remove an earlier demo. Raises Conflict if the folder contains anything else."""
    if out.exists() and any(out.iterdir()):
        if not (out / MARK).exists():
            raise Conflict(
                f"{out} contains files of something else; choose another folder with --out"
            )
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()
