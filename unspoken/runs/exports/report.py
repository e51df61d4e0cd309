"""Export to one static page, `index.html`, with copies of the labelled pictures beside it.

The page loads nothing from other sites. Captions, labels and keys are untrusted text: the page
holds them as JSON with escaped markup and shows them as text only. A content security policy
allows only the page's own script.
"""

import base64
import hashlib
import html
import json
from collections import Counter
from importlib import resources
from pathlib import Path

from PIL import Image

from unspoken.imaging.drawing import css_variables
from unspoken.progress import NO_PROGRESS, Progress, counted
from unspoken.runs.dataset.false_discovery import annotation_source
from unspoken.runs.dataset.rows import Annotation, Candidate, Row
from unspoken.runs.dataset.shards import committed_records
from unspoken.runs.exports.source import (
    LabelledPictures,
    count_labelled,
    detector_names,
    encode_jpeg,
    find_dataset,
    labelled_rows,
    missing_pictures,
)
from unspoken.runs.files import whole_folder
from unspoken.runs.notice import describe_limits, describe_loss

PAGE_FILE = "index.html"
PICTURES_DIR = "pictures"
MAX_SIDE_PX = 800


def write_report(
    run_dir: Path, out: Path, *, pictures: Path | None = None, progress: Progress = NO_PROGRESS
) -> dict[str, int]:
    """Write out/index.html and out/pictures/; return the counts of pictures and boxes.

    `pictures`: see LabelledPictures. Raises NotFound, InvalidInput; `out` is then unchanged.
    """
    dataset_dir = find_dataset(run_dir)
    files = LabelledPictures(run_dir, root=pictures)
    records: list[dict[str, object]] = []
    num_boxes = 0
    with (
        whole_folder(out) as folder,
        progress.stage("drawing the report", total=count_labelled(dataset_dir)) as stage,
    ):
        (folder / PICTURES_DIR).mkdir()
        for number, row in enumerate(counted(labelled_rows(dataset_dir), stage), start=1):
            name = f"{PICTURES_DIR}/{number:09d}.jpg"
            copy = Image.fromarray(files.read(row).pixels)
            copy.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
            (folder / name).write_bytes(encode_jpeg(copy, quality=85))
            records.append(_describe(row, picture=name))
            num_boxes += len(row.kept)
        title = f"Run {run_dir.resolve().name}"
        page = render_page(records, title=title, notice=_notice(run_dir, dataset_dir))
        (folder / PAGE_FILE).write_text(page, encoding="utf-8")
    return {"pictures": len(records), "boxes": num_boxes}


def _notice(run_dir: Path, dataset_dir: Path) -> str:
    """Return notices: the run is not done, it lost rows, its models know emoji art only."""
    dropped: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    labelled = total = boxes = 0
    for _, record in committed_records(dataset_dir):
        total += record.num_rows
        labelled += record.labelled
        boxes += record.annotations
        dropped.update(record.dropped)
        failed.update(record.failed)
    loss = describe_loss(
        total=total, labelled=labelled, dropped=dropped, failed=failed, boxes=boxes
    )
    revisions = (name.rpartition("@")[2] for name in detector_names(dataset_dir))
    limits = describe_limits(revisions)
    return ". ".join(notice for notice in (missing_pictures(run_dir), loss, limits) if notice)


def render_page(records: list[dict[str, object]], *, title: str, notice: str = "") -> str:
    """Return the page's HTML. records: as report.js reads them. notice: shown at the top."""
    style, script = css_variables() + _part("report.css"), _part("report.js")
    policy = (
        f"default-src 'none'; img-src 'self' file:; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    page = _part("report.html")
    # Insert the data last, so that untrusted text is never searched for placeholders.
    for place, text in (
        ("policy", policy),
        ("title", html.escape(title)),
        ("notice", f'<p class="notice">{html.escape(notice)}</p>' if notice else ""),
        ("style", style),
        ("script", script),
        ("data", _as_data(records)),
    ):
        page = page.replace("{{" + place + "}}", text)
    return page


def _as_data(value: object) -> str:
    """Return JSON that is safe inside a script element: '<', '>' and '&' are escaped."""
    text = json.dumps(value, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _describe(row: Row, *, picture: str) -> dict[str, object]:
    asked = [each for each in row.candidates if each.rejected is None and not each.decoy]
    return {
        "key": row.key,
        "caption": row.caption,
        "picture": picture,
        "width": row.image_width,
        "height": row.image_height,
        # Draw the largest first, so that boxes of parts are on top of the whole object's box.
        "boxes": [_box(each, row) for each in sorted(row.kept, key=lambda each: -_area(each.box))],
        "unboxed": [
            _phrase(each, what="named" if each.named else "implied")
            for each in asked
            if each.id not in row.found
        ],
        "rejected": [_phrase(each, what=each.rejected) for each in row.candidates if each.rejected],
    }


def _phrase(candidate: Candidate, *, what: str) -> str:
    sources = dict.fromkeys(source.template for source in candidate.sources)
    return f"{candidate.phrase}: {', '.join([what, *(f'from {source}' for source in sources)])}"


def _box(annotation: Annotation, row: Row) -> dict[str, object]:
    return {
        "box": [round(side, 1) for side in annotation.box],
        "label": annotation.label,
        "score": round(annotation.score, 3),
        "kind": annotation_source(annotation, row),
        "templates": annotation.templates,
        "alt_labels": [alt.label for alt in annotation.alt_labels],
    }


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the hash of an inline style or script for a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
