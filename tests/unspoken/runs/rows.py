"""Rows as the pipeline would write them, for the tests of shards, ledger, card and export."""

from unspoken.runs.chunks import Chunk
from unspoken.runs.dataset.rows import AltLabel, Annotation, Candidate, Filter, RawText, Row
from unspoken.runs.plan import LabelConfig, Plan
from unspoken.wire.base import ModelInfo
from unspoken.wire.proposals import PhraseSource

MODELS = {
    "llm": ModelInfo(name="fake-llm", kind="llm", revision="0"),
    "detector": ModelInfo(name="fake-detector", kind="detector", revision="0"),
    "text_encoder": ModelInfo(name="fake-text-encoder", kind="text_encoder", revision="0"),
}


def candidate(number, phrase, **what):
    fields = {"named": True, "stuff": False, "decoy": False, "sources": (), **what}
    return Candidate(id=number, phrase=phrase, **fields)


def labelled_row(index: int, *, source: str = "00000.tar") -> Row:
    parts = (
        PhraseSource(template="parts", model="fake-llm", rank=1, mean_logprob=-0.5),
        PhraseSource(template="implied", example_set=2, model="fake-llm", mean_logprob=-0.75),
    )
    return Row(
        key=f"key-{index}",
        source_shard=source,
        source_member=f"key-{index}.jpg",
        source_row=index,
        caption="A car, parked",
        image_sha256="ab" * 32,
        image_width=100,
        image_height=80,
        status="labelled",
        filters=(Filter(name="language", source="language", value="en"),),
        candidates=(
            candidate(0, "car"),
            candidate(1, "wheel", named=False, sources=parts),
            candidate(2, "teapot", decoy=True, named=False),
            candidate(3, "piano", decoy=True, named=False),
            candidate(4, "photo", rejected="generic"),
        ),
        annotations=(
            annotation(0, (10, 10, 90, 60), "car", 0.75, alt=("vehicle", 0.5)),
            annotation(1, (20, 45, 35, 60), "wheel", 0.5, candidate_id=1, named=False),
            annotation(2, (0, 0, 9, 9), "teapot", 0.5, candidate_id=2, decoy=True, drop="decoy"),
        ),
        negatives=("trailer",),
        raw_texts=(RawText(template="parts", text=" car, wheel"),),
        num_detector_chunks=1,
        prompt_sha256="cd" * 32,
    )


def annotation(
    number, box, label, score, *, candidate_id=0, named=True, decoy=False, alt=None, drop=None
):
    alternates = (AltLabel(label=alt[0], candidate_id=0, score=alt[1]),) if alt else ()
    return Annotation(
        id=number,
        box=box,
        label=label,
        score=score,
        candidate_id=candidate_id,
        named=named and not decoy,
        stuff=False,
        decoy=decoy,
        alt_labels=alternates,
        kept=drop is None,
        drop_reason=drop,
    )


def unlabelled_row(index: int, *, status: str, reason: str) -> Row:
    return Row(
        key=f"key-{index}",
        source_shard="00000.tar",
        source_member="",
        source_row=index,
        caption="",
        status=status,
        reason=reason,
    )


def plan(*, chunks: int = 1, rows: int = 4) -> Plan:
    return Plan(
        run_id="run",
        config=LabelConfig(named_threshold=0.3),
        config_sha256="0",
        models=MODELS,
        num_rows=chunks * rows,
        chunks=tuple(
            Chunk(
                id=i,
                source="00000.tar",
                ranges=((i * rows, (i + 1) * rows),),
                row_digests="0" * 24 * rows,
            )
            for i in range(chunks)
        ),
    )
