"""Counts, label vectors and the manifest, which complete committed shards to a dataset.

labels.safetensors holds one tensor per distinct label, (768,) float32, of unit length.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save

from unspoken.ports import TextEncoder
from unspoken.runs import storage
from unspoken.runs.dataset.bias import BiasCounts, IsThere
from unspoken.runs.dataset.false_discovery import ChosenThresholds
from unspoken.runs.dataset.rows import Row
from unspoken.runs.dataset.shards import FORMAT_VERSION, committed_records, iter_rows
from unspoken.runs.files import file_sha256, write_json
from unspoken.runs.plan import Plan

LABELS_FILE = "labels.safetensors"
MANIFEST_FILE = "manifest.json"
ENCODE_BATCH = 256


@dataclass
class DatasetCounts:
    """All counts of the card and the manifest, collected in one pass over the rows."""

    rows: int = 0
    labelled: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    not_kept: Counter[str] = field(default_factory=Counter)
    candidates_asked: int = 0
    candidates_found: int = 0
    label_named: Counter[str] = field(default_factory=Counter)
    label_implied: Counter[str] = field(default_factory=Counter)
    decoys_asked: Counter[str] = field(default_factory=Counter)
    decoys_answered: Counter[str] = field(default_factory=Counter)
    stored_labels: set[str] = field(default_factory=set)
    """Labels of stored boxes, their alternative labels, and negatives."""
    negatives: Counter[str] = field(default_factory=Counter)
    labels_per_picture: Counter[int] = field(default_factory=Counter)
    """Number of distinct labels of kept boxes -> labelled pictures with that number."""
    bias: BiasCounts = field(default_factory=BiasCounts)

    @property
    def annotations(self) -> int:
        """Number of kept boxes."""
        return self.label_named.total() + self.label_implied.total()

    @property
    def labels(self) -> list[str]:
        """Labels of kept boxes, the most frequent first."""
        both = self.label_named + self.label_implied
        return sorted(both, key=lambda label: (-both[label], label))

    @property
    def implied_share(self) -> float | None:
        """Share of kept boxes whose label the caption does not name."""
        return self.label_implied.total() / self.annotations if self.annotations else None

    @property
    def false_answer_rate(self) -> float | None:
        """Share of decoys that got a box at the run's threshold."""
        asked = self.decoys_asked.total()
        return self.decoys_answered.total() / asked if asked else None

    @property
    def false_discovery_rate(self) -> float | None:
        """Estimated share of false labels: the decoys' answer rate over the candidates'."""
        if self.false_answer_rate is None or not self.candidates_found:
            return None
        return min(1.0, self.false_answer_rate / (self.candidates_found / self.candidates_asked))

    def summary(self) -> dict[str, object]:
        """Return the counts as a JSON object."""
        return {
            "rows": self.rows,
            "labelled": self.labelled,
            "dropped": dict(self.dropped),
            "failed": dict(self.failed),
            "annotations": self.annotations,
            "implied_annotations": self.label_implied.total(),
            "distinct_labels": len(self.labels),
            "boxes_not_kept": dict(self.not_kept),
            "phrases_asked": self.candidates_asked,
            "phrases_found": self.candidates_found,
            "phrases_rejected": dict(self.rejected),
            "phrases_absent": self.negatives.total(),
            "decoys_asked": self.decoys_asked.total(),
            "decoys_answered": self.decoys_answered.total(),
        }


def count_dataset(
    rows: Iterable[Row], *, box_threshold: float, is_there: IsThere | None = None
) -> DatasetCounts:
    """Count rows. A decoy is answered if it has a box with a score of at least `box_threshold`.

    is_there: ground truth, if known; used only for the bias counts.
    """
    counts = DatasetCounts()
    for row in rows:
        counts.rows += 1
        counts.labelled += row.status == "labelled"
        counts.dropped.update([row.reason or "unknown"] if row.status == "dropped" else [])
        counts.failed.update([row.reason or "unknown"] if row.status == "failed" else [])
        reached = _count_candidates(counts, row, box_threshold)
        if row.status == "labelled":
            counts.labels_per_picture[len({each.label for each in row.kept})] += 1
            counts.bias.add(row, reached=reached, is_there=is_there)
        counts.negatives.update(row.negatives)
        counts.stored_labels.update(row.negatives)
        for annotation in row.annotations:
            if annotation.decoy:
                continue
            counts.stored_labels.update(annotation.all_labels)
            if annotation.kept:
                side = counts.label_named if annotation.named else counts.label_implied
                side[annotation.label] += 1
            else:
                counts.not_kept[annotation.drop_reason or "unknown"] += 1
    return counts


def _count_candidates(counts: DatasetCounts, row: Row, box_threshold: float) -> set[int]:
    """Count a row's phrases; return the ids of those that the detector found."""
    reached = {a.candidate_id for a in row.annotations if a.score >= box_threshold}
    reached |= {alt.candidate_id for a in row.kept for alt in a.alt_labels}
    for candidate in row.candidates:
        if candidate.rejected is not None:
            counts.rejected[candidate.rejected] += 1
        elif candidate.decoy:
            counts.decoys_asked[candidate.phrase] += 1
            counts.decoys_answered[candidate.phrase] += candidate.id in reached
        else:
            counts.candidates_asked += 1
            counts.candidates_found += candidate.id in reached
    return reached


def write_labels(dataset_dir: Path, labels: Sequence[str], encoder: TextEncoder) -> None:
    """Encode every label once and write labels.safetensors. Raises the encoder's errors."""
    names = sorted(labels)
    vectors: dict[str, np.ndarray] = {}
    for start in range(0, len(names), ENCODE_BATCH):
        batch = names[start : start + ENCODE_BATCH]
        embeddings = np.ascontiguousarray(encoder.encode_texts(batch), dtype=np.float32)  # (N, 768)
        vectors.update(zip(batch, embeddings, strict=True))
    model = encoder.model
    # Use one entry, because safetensors writes several in an order that changes between calls.
    metadata = {"text_encoder": f"{model.name} {model.revision}"}
    storage.replace(dataset_dir / LABELS_FILE, save(vectors, metadata=metadata))


def read_labels(dataset_dir: Path) -> dict[str, np.ndarray]:
    """Read label -> vector, (768,) float32 of unit length."""
    vectors: dict[str, np.ndarray] = load_file(dataset_dir / LABELS_FILE)
    return vectors


def read_text_encoder(dataset_dir: Path) -> str:
    """Return name@revision of the text encoder that made a dataset's label vectors."""
    with safe_open(dataset_dir / LABELS_FILE, framework="numpy") as file:
        written = str((file.metadata() or {}).get("text_encoder", "unknown unknown"))
    return "@".join(written.rsplit(" ", 1))


def write_manifest(
    run_dir: Path, plan: Plan, counts: DatasetCounts, chosen: ChosenThresholds | None = None
) -> None:
    """Write the manifest: shards with their digests, plan, config, models and counts.

    It contains no time, so a rerun writes identical bytes. Call it after `write_labels`.
    chosen: the thresholds of a run whose decoys chose them.
    """
    dataset_dir = run_dir / "dataset"
    records = [record for _, record in committed_records(dataset_dir)]
    answered = {name for record in records for name in record.models.values()}
    manifest: dict[str, object] = {
        "format_version": FORMAT_VERSION,
        "run_id": plan.run_id,
        "plan_sha256": file_sha256(run_dir / "plan.json"),
        "config": plan.config.model_dump(mode="json"),
        "config_sha256": plan.config_sha256,
        "models": {kind: model.model_dump() for kind, model in plan.models.items()},
        "models_seen": sorted(answered | {read_text_encoder(dataset_dir)}),
        "counts": counts.summary(),
        "labels": {
            "file": LABELS_FILE,
            "sha256": file_sha256(dataset_dir / LABELS_FILE),
            "num_labels": len(counts.stored_labels),
        },
        "shards": [
            {"file": record.shard, "sha256": record.sha256, "num_rows": record.num_rows}
            for record in records
        ],
    }
    if chosen is not None:
        manifest["thresholds"] = chosen.model_dump(mode="json")
    write_json(dataset_dir / MANIFEST_FILE, manifest)


def read_thresholds(dataset_dir: Path) -> ChosenThresholds | None:
    """Read the thresholds that the decoys of a finished run chose.

    None if the run is not finished or its decoys chose no thresholds.
    """
    try:
        manifest = json.loads((dataset_dir / MANIFEST_FILE).read_bytes())
    except FileNotFoundError:
        return None
    chosen = manifest.get("thresholds")
    return None if chosen is None else ChosenThresholds.model_validate(chosen)


def count_run(run_dir: Path, plan: Plan, chosen: ChosenThresholds | None = None) -> DatasetCounts:
    """Count all committed shards of a run.

    Phrases and decoys count as found from the lowest score of a kept box of any source.
    """
    lowest = None if chosen is None else chosen.lowest
    return count_dataset(
        iter_rows(run_dir / "dataset"),
        box_threshold=plan.config.named_threshold if lowest is None else lowest,
    )
