"""Notices for runs that labelled nothing, lost most rows for one reason, or kept no box."""

from collections.abc import Iterable, Mapping

MIN_ROWS = 50
"""A run in progress gets a notice only once this many rows are done."""

HINTS = {
    "aspect": "--filter max_aspect=off keeps them",
    "bad_row": "The detail of each row says what is wrong with its line",
    "blocklist": "--blocklist FILE replaces the list of words",
    "caption_empty": (
        "Put each caption in a .txt file beside its picture, or label a table of paths and captions"
    ),
    "caption_too_long": "--filter max_caption_chars=2000 keeps captions of up to 2000 characters",
    "caption_too_short": "--filter min_caption_words=off keeps them",
    "duplicate": "--filter drop_duplicates=off keeps them",
    "language": "--filter language=CODE accepts another language, --filter language=off any",
    "low_similarity": "--filter min_similarity=off keeps them",
    "no_picture": (
        "Paths in a table are relative to its folder; --pictures FOLDER sets another folder"
    ),
    "not_downloaded": "The table contains URLs: download the pictures first, with img2dataset",
    "outside_data_folder": "--pictures FOLDER names the folder of the pictures",
    "too_small": "--filter min_image_side_px=off keeps them",
    "undecodable": "The files are damaged, or are not pictures",
    "unsafe": "Judged by the columns punsafe, NSFW, or by the picture: docs/reference/filters.md",
    "watermark": "--filter max_watermark=off keeps them",
}
"""Reason of a dropped or failed row -> advice for the user."""


EMOJI_ONLY = (
    "The models of the profile small know emoji art only. For photographs, use another profile: "
    "UNSPOKEN_PROFILE=base"
)

NO_BOX = "no box was kept in {labelled} labelled pictures. A lower --box-threshold keeps more."


def main_loss(labelled: int, dropped: Mapping[str, int], failed: Mapping[str, int]) -> str | None:
    """Return the reason that lost more than half of the rows; None if there is none.

    If no row was labelled, return the most frequent reason.
    """
    lost = _lost(dropped, failed)
    if not lost:
        return None
    reason = max(lost, key=lambda each: (lost[each], each))
    done = labelled + sum(lost.values())
    return reason if labelled == 0 or 2 * lost[reason] > done else None


def describe_loss(
    *,
    total: int,
    labelled: int,
    dropped: Mapping[str, int],
    failed: Mapping[str, int],
    boxes: int | None = None,
    hints: Mapping[str, str] = HINTS,
) -> str:
    """Return the notice of a run; empty if all is well or too few rows are done.

    total: rows of the run. boxes: number of kept annotations; None while a run's thresholds are
    not chosen. hints: advice for each reason.
    """
    reason = main_loss(labelled, dropped, failed)
    done = labelled + sum(dropped.values()) + sum(failed.values())
    if done < min(total, MIN_ROWS):
        return ""
    if reason is None:
        return NO_BOX.format(labelled=labelled) if labelled and boxes == 0 else ""
    what = "dropped" if dropped.get(reason, 0) >= failed.get(reason, 0) else "failed"
    count = _lost(dropped, failed)[reason]
    rows = f"all {done} rows" if count == done else f"{count} of {done} rows"
    none = "nothing was labelled: " if labelled == 0 and count < done else ""
    hint = hints.get(reason)
    return f"{none}{rows} {what}: {reason}." + (f" {hint}." if hint else "")


def describe_limits(detector_revisions: Iterable[str]) -> str:
    """Return what the detectors of a dataset do not know; empty if nothing is known about that.

    Weights that were trained here on the small world have a revision `small-world-N`.
    """
    small = any(revision.startswith("small-world") for revision in detector_revisions)
    return EMOJI_ONLY if small else ""


def _lost(dropped: Mapping[str, int], failed: Mapping[str, int]) -> dict[str, int]:
    """Return reason -> number of rows dropped or failed."""
    return {
        reason: dropped.get(reason, 0) + failed.get(reason, 0) for reason in {*dropped, *failed}
    }
