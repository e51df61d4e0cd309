"""One campaign: labels the same source twice, first undisturbed, then under every fault.

`Findings.faults` lists the failed expectations of the end state; empty if all hold.
"""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from smallworld.shards import write_shards
from smallworld.world import World
from tests.chaos import faults
from tests.chaos.reader import EndState, read_end_state
from tests.chaos.rig import Rig
from tests.chaos.service import CAPTION_S, EXECUTIONS, PICTURE_S
from tests.chaos.worker import POISON
from tests.worker.source_files import CAPTIONS, write_shard
from unspoken.runs.store import create_run
from unspoken.wire.runs import RunRequest

CHUNK_SIZE = 4
ROWS_PER_FILE = 100
FIRST_POISON = 10
COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "grey")
VESSELS = ("bottle", "cup", "glass", "bowl", "jar", "jug", "bucket", "barrel")
NUM_SCENES, SMALL_CHUNK = 12, 2
MAX_POISON_EXECUTIONS = 3
MAX_BACK_S = 30.0
STALLED_S = 150.0
HUNG = "takes no message"
"""Log text of the watchdog when it ends a worker."""


@dataclass(frozen=True)
class Scale:
    """The size of a campaign."""

    chunks: int
    rounds: int
    """Number of times that each kind of fault occurs."""
    hold_s: tuple[float, float]
    """Shortest and longest duration of a fault."""
    rows_per_poison: int = 200

    @property
    def rows(self) -> int:
        return self.chunks * CHUNK_SIZE


@dataclass
class Findings:
    """Measured figures and failed expectations."""

    figures: dict[str, object]
    faults: list[str] = field(default_factory=list)

    def want(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.faults.append(otherwise)


@dataclass
class _Injected:
    """Record of the faults during the disturbed run."""

    started_s: float
    slots_hit: int = 0
    back_s: list[float] = field(default_factory=list)
    """Times at which Redis was available again."""
    torn: dict = field(default_factory=dict)


def run_campaign(folder: Path, scale: Scale, *, seed: int) -> Findings:
    """Run the whole campaign in an empty folder. Raises TimeoutError if a run stalls."""
    rng = random.Random(seed)
    started_s = time.monotonic()
    with Rig(folder) as rig:
        captions = write_source(
            rig.data_dir / "in", scale.rows, rows_per_poison=scale.rows_per_poison
        )
        calm, calm_s = _label(rig, "calm"), time.monotonic() - started_s
        calm_work = _executions(rig, since_s=0)
        injected = _Injected(started_s=time.time())
        schedule = _FaultSchedule(
            rig,
            faults.draw_schedule(rng, scale.rounds),
            rng,
            injected,
            num_chunks=scale.chunks,
            hold_s=scale.hold_s,
        )
        chaos = _label(rig, "chaos", schedule=schedule, injected=injected)
        injected.back_s += rig.redis_back_s
        work = _executions(rig, since_s=injected.started_s)
        findings = _judge(captions, calm, chaos, scale=scale)
        _judge_work(findings, calm_work, work, injected)
        logs = [path.read_text() for path in folder.glob("worker-*.log")]
        hung = sum(log.count(HUNG) for log in logs)
        restarts = scale.rounds * len(faults.LEFT_TO_LAUNCHER)
        findings.want(
            len(rig.redis_back_s) == restarts,
            f"Redis was restarted {len(rig.redis_back_s)} times, not {restarts}",
        )
        findings.want(not hung, f"{hung} times a worker took no message until its watchdog bit")
        findings.figures |= {
            "seed": seed,
            "faults": scale.rounds * len(faults.KINDS),
            "disk": rig.disk.kind,
            "unasked_deaths": rig.deaths(),
            "redis_restarts": len(rig.redis_back_s),
            "hung_workers": hung,
            "calm_s": round(calm_s),
            "seconds": round(time.monotonic() - started_s),
        }
    return findings


def run_small_models(folder: Path, *, seed: int) -> Findings:
    """Run a short campaign with the small models; compare rows, statuses and files.

    The last digits of the language model's log-probabilities depend on the other items of a batch.
    The detector's vector of a phrase depends on the query in which it first occurred. Therefore
    equality of these values is reported but not required.
    """
    rng = random.Random(seed)
    with Rig(folder, small_models=True, concurrency=1) as rig:
        write_shards(rig.data_dir / "in", World.load(), num_scenes=NUM_SCENES, seed=seed)
        calm = _label(rig, "calm", chunk_size=SMALL_CHUNK)
        injected = _Injected(started_s=time.time())
        due = rng.sample(("kill_worker", "kill_redis", "kill_service"), 3)
        schedule = _FaultSchedule(
            rig, due, rng, injected, num_chunks=NUM_SCENES // SMALL_CHUNK, hold_s=(1.0, 2.0)
        )
        chaos = _label(rig, "chaos", schedule=schedule, injected=injected, chunk_size=SMALL_CHUNK)
    findings = Findings(
        {
            "small_models_rows": len(chaos.inputs),
            "small_models_statuses": dict(Counter(chaos.statuses.values())),
            "small_models_same_sha256": calm.sha256 == chaos.sha256,
        }
    )
    wanted = {("in/00000.tar", row): 1 for row in range(NUM_SCENES)}
    findings.want(dict(chaos.inputs) == wanted, f"small models: rows {chaos.inputs}")
    findings.want(calm.statuses == chaos.statuses, f"small models: {_differing(calm, chaos)}")
    findings.want(not chaos.problems, f"small models: {chaos.problems}")
    findings.want(not injected.torn["faults"], f"small models: torn {injected.torn['faults']}")
    return findings


def write_source(folder: Path, num_rows: int, *, rows_per_poison: int) -> list[str]:
    """Write tar shards of distinct captioned pictures; return the captions in order."""
    captions = [f"Picture {i:05d}: {CAPTIONS[i % len(CAPTIONS)].lower()}" for i in range(num_rows)]
    columns: list[dict[str, object]] = [{"LANGUAGE": "en", "punsafe": 0.01} for _ in captions]
    for number, index in enumerate(range(FIRST_POISON, num_rows, rows_per_poison)):
        # Use different words each time: executions are counted in the language classifier, which
        # gets captions without numbers.
        colour, vessel = COLOURS[number % len(COLOURS)], VESSELS[number // len(COLOURS)]
        captions[index] = f"Picture {index:05d}: a {colour} {vessel} of {POISON} on the table"
        columns[index] = {"punsafe": 0.01}  # without a language the classifier must read it
    for start in range(0, num_rows, ROWS_PER_FILE):
        part = slice(start, start + ROWS_PER_FILE)
        write_shard(
            folder / f"{start // ROWS_PER_FILE:05d}.tar",
            captions[part],
            first_seed=start,
            columns=columns[part],
        )
    return captions


class _FaultSchedule:
    """Applies the scheduled faults, spread over the run's progress."""

    def __init__(
        self,
        rig: Rig,
        due: Sequence[str],
        rng: random.Random,
        injected: _Injected,
        *,
        num_chunks: int,
        hold_s: tuple[float, float],
    ) -> None:
        self._rig, self._rng, self._injected = rig, rng, injected
        self._due, self._total = list(due), len(due)
        self._num_chunks, self._hold_s = num_chunks, hold_s

    def inject_due(self, chunks_done: int) -> None:
        """Apply the next fault if the run has progressed far enough."""
        if self._rig.redis_is_away:  # faults need a live Redis; its restart is measured alone
            return
        number = self._total - len(self._due)
        # No faults in the last tenth, so that the stack can recover.
        if not self._due or chunks_done < 0.9 * self._num_chunks * (number + 0.5) / self._total:
            return
        name = self._due.pop(0)
        context = faults.FaultContext(self._rig, self._rng, self._rng.uniform(*self._hold_s))
        _say(f"{chunks_done} chunks done: {name} for {context.hold_s:.1f} s")
        self._injected.slots_hit += faults.KINDS[name](context)
        if name in faults.AWAY:
            self._injected.back_s.append(time.time())

    @property
    def left(self) -> int:
        return len(self._due)


def _label(
    rig: Rig,
    run_id: str,
    *,
    schedule: _FaultSchedule | None = None,
    injected: _Injected | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> EndState:
    request = RunRequest(source="in", run_id=run_id, chunk_size=chunk_size)
    create_run(rig.data_dir, rig.runs_dir, request)
    dataset = rig.runs_dir / run_id / "dataset"
    report = rig.folder / f"{run_id}-watcher.json"
    command = [sys.executable, "-m", "tests.chaos.watcher", str(dataset), str(report)]
    watcher = subprocess.Popen(command)
    try:
        _follow(rig, run_id, schedule)
    finally:
        watcher.send_signal(signal.SIGTERM)
        watcher.wait(timeout=60)
    if injected is not None:
        injected.torn = json.loads(report.read_text())
    return read_end_state(dataset)


def _follow(rig: Rig, run_id: str, schedule: _FaultSchedule | None) -> None:
    run_dir = rig.runs_dir / run_id
    done, moved_s = -1, time.monotonic()
    while (state := _state(run_dir)) != "done":
        now_done = len(list((run_dir / "dataset").glob("shard-*.json")))
        if now_done != done:
            done, moved_s = now_done, time.monotonic()
        if state in ("failed", "cancelled") or time.monotonic() - moved_s > STALLED_S:
            status = (run_dir / "status.json").read_text()
            raise TimeoutError(f"{run_id} stands still with {done} chunks done: {status}")
        if schedule is not None:
            schedule.inject_due(done)
        rig.revive()
        time.sleep(0.05)
    assert schedule is None or not schedule.left, "every fault was injected"


def _state(run_dir: Path) -> str:
    try:
        return json.loads((run_dir / "status.json").read_text())["state"]
    except FileNotFoundError:
        return "planned"


def _executions(rig: Rig, *, since_s: float) -> list[dict]:
    path = rig.notes_dir / EXECUTIONS
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["at_s"] >= since_s]


def _judge(captions: list[str], calm: EndState, chaos: EndState, *, scale: Scale) -> Findings:
    """Check that each row exists once and equals the row of the undisturbed run."""
    wanted = {
        (f"in/{index // ROWS_PER_FILE:05d}.tar", index % ROWS_PER_FILE)
        for index in range(scale.rows)
    }
    missing = len(wanted - set(chaos.inputs))
    twice = sum(times > 1 for times in chaos.inputs.values())
    statuses = Counter(chaos.statuses.values())
    findings = Findings(
        {
            "chunks": scale.chunks,
            "rows": len(wanted),
            "missing": missing,
            "twice": twice,
            "statuses": dict(statuses),
            "same_sha256": calm.sha256 == chaos.sha256,
        }
    )
    findings.want(set(calm.inputs) == wanted and not calm.problems, f"calm run: {calm.problems}")
    findings.want(not missing, f"{missing} rows are missing")
    findings.want(set(chaos.inputs) <= wanted, "there are rows that nobody asked for")
    findings.want(not twice, f"{twice} rows stand twice")
    findings.want(not chaos.problems, f"shards: {chaos.problems[:5]}")
    findings.want(calm.sha256 == chaos.sha256, f"rows differ: {_differing(calm, chaos)}")
    poison = {caption for caption in captions if POISON in caption}
    for caption in captions:
        status = "failed: poison" if caption in poison else "labelled"
        if chaos.statuses.get(caption) != status:
            findings.want(False, f"{caption!r} is {chaos.statuses.get(caption)}, not {status}")
    return findings


def _differing(calm: EndState, chaos: EndState) -> list[str]:
    names = sorted(
        caption
        for caption in calm.statuses
        if calm.statuses[caption] != chaos.statuses.get(caption)
    )
    return [f"{name}: {chaos.statuses.get(name)}" for name in names[:5]] or ["in their content"]


def _judge_work(
    findings: Findings, calm_work: list[dict], work: list[dict], injected: _Injected
) -> None:
    """Check the number of executions, torn files, and the time until work resumed."""
    times = defaultdict(Counter)
    for execution in work:
        times[execution["kind"]][execution["key"]] += 1
    poison = max(times[POISON].values(), default=0)
    chunk_s = CHUNK_SIZE * (CAPTION_S + PICTURE_S)
    wasted_s = _cost_s(work) - _cost_s(calm_work)
    # A poison item kills its worker each time, which loses the work on one chunk.
    bound_s = (injected.slots_hit + sum(times[POISON].values())) * chunk_s
    starts = sorted(each["at_s"] for each in work if each["kind"] != "detect")
    waits = [
        next((at_s for at_s in starts if at_s > back_s), back_s) - back_s
        for back_s in injected.back_s
    ]
    findings.figures |= {
        "torn": len(injected.torn["faults"]),
        "files_watched": injected.torn["seen"],
        "poison_executions": poison,
        "wasted_s": round(wasted_s, 2),
        "wasted_bound_s": round(bound_s, 2),
        "wasted_share": round(wasted_s / _cost_s(calm_work), 3),
        "redis_back_s": round(max(waits, default=0.0), 1),
    }
    findings.want(not injected.torn["faults"], f"torn: {injected.torn['faults'][:5]}")
    findings.want(poison <= MAX_POISON_EXECUTIONS, f"a poison item was executed {poison} times")
    findings.want(wasted_s <= bound_s, f"{wasted_s:.1f} s of work wasted, over {bound_s:.1f} s")
    slowest = max(waits, default=0.0)
    findings.want(slowest <= MAX_BACK_S, f"work went on {slowest:.0f} s after Redis was back")


def _cost_s(work: list[dict]) -> float:
    prices = {"propose": CAPTION_S, "detect": PICTURE_S}
    return sum(prices.get(execution["kind"], 0.0) for execution in work)


def _say(text: str) -> None:
    sys.stderr.write(f"chaos: {text}\n")
