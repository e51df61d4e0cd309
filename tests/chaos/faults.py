"""Faults, one function each: it injects the fault, waits, and removes it before it returns.

A seed decides the order and the targets of faults; every kind occurs once before any is repeated.
Faults wait for progress, not for a clock, so that they hit the run on fast and slow machines.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.rig import Rig

Services = ("llm", "detector")


@dataclass(frozen=True)
class Blow:
    """Arguments of one fault: the rig, the duration, and a random generator."""

    rig: Rig
    rng: random.Random
    hold_s: float

    def hold(self) -> None:
        time.sleep(self.hold_s)

    def service(self) -> str:
        return self.rng.choice(Services)


Fault = Callable[[Blow], int]
"""Function that injects a fault and returns the number of slots it may have interrupted."""


def kill_worker(blow: Blow) -> int:
    index = blow.rng.randrange(len(blow.rig.workers))
    blow.rig.workers[index].kill()
    blow.rig.start_worker(index)
    return blow.rig.concurrency


def kill_dispatcher(blow: Blow) -> int:
    dispatcher = blow.rng.choice(blow.rig.dispatchers)
    dispatcher.kill()
    blow.hold()
    dispatcher.start()
    return 0


def kill_redis(blow: Blow) -> int:
    blow.rig.kill_redis()
    blow.hold()
    blow.rig.start_redis()
    return blow.rig.slots


def lose_redis(blow: Blow) -> int:
    """Kill Redis; the launcher has to restart it."""
    blow.rig.kill_redis()
    return blow.rig.slots


def damage_aof(blow: Blow) -> int:
    """Kill Redis and damage its append-only file, as a power cut may; the launcher restarts it."""
    blow.rig.kill_redis()
    path = blow.rig.aof
    content = path.read_bytes()
    match blow.rng.choice(("zeros", "cut", "noise")):
        case "zeros":
            path.write_bytes(content + bytes(blow.rng.randrange(1, 8192)))
        case "cut":
            path.write_bytes(content[: blow.rng.randrange(len(content) + 1)])
        case "noise":
            start = blow.rng.randrange(len(content) + 1)
            path.write_bytes(content[:start] + blow.rng.randbytes(64) + content[start + 64 :])
    return blow.rig.slots


def flush_redis(blow: Blow) -> int:
    with blow.rig.redis() as client:
        client.flushall()
    return 0


def pause_redis(blow: Blow) -> int:
    """Pause Redis by its own command, or stop its process, as a swapping machine would."""
    if blow.rng.random() < 0.5:
        with blow.rig.redis() as client:
            client.client_pause(int(1000 * blow.hold_s))
        blow.hold()
    else:
        os.kill(blow.rig.redis_pid, signal.SIGSTOP)
        blow.hold()
        os.kill(blow.rig.redis_pid, signal.SIGCONT)
    return blow.rig.slots


def reset_redis(blow: Blow) -> int:
    blow.rig.proxies["redis"].reset()
    return blow.rig.slots


def cut_redis(blow: Blow) -> int:
    return _cut(blow, "redis")


def delay_redis(blow: Blow) -> int:
    return _delay(blow, "redis")


def service_answers_429(blow: Blow) -> int:
    return _mood(blow, "busy")


def service_answers_503(blow: Blow) -> int:
    return _mood(blow, "away")


def service_hangs(blow: Blow) -> int:
    service = blow.rig.services[blow.service()]
    service.signal(signal.SIGSTOP)
    blow.hold()
    service.signal(signal.SIGCONT)
    return blow.rig.slots


def kill_service(blow: Blow) -> int:
    kind = blow.service()
    blow.rig.services[kind].kill()
    blow.hold()
    blow.rig.start_service(kind)
    blow.rig.wait_ready([kind])
    return blow.rig.slots


def reset_service(blow: Blow) -> int:
    blow.rig.proxies[blow.service()].reset()
    return blow.rig.slots


def cut_service(blow: Blow) -> int:
    return _cut(blow, blow.service())


def delay_service(blow: Blow) -> int:
    return _delay(blow, blow.service())


def fill_disk(blow: Blow) -> int:
    blow.rig.disk.fill(blow.rig.writers())
    blow.hold()
    blow.rig.disk.free(blow.rig.writers())
    return blow.rig.slots


KINDS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        *(kill_worker, kill_dispatcher),
        *(
            kill_redis,
            lose_redis,
            damage_aof,
            flush_redis,
            pause_redis,
            reset_redis,
            cut_redis,
            delay_redis,
        ),
        *(service_answers_429, service_answers_503, service_hangs, kill_service),
        *(reset_service, cut_service, delay_service),
        fill_disk,
    )
}
LEFT_TO_LAUNCHER = frozenset(("lose_redis", "damage_aof"))
"""Faults after which Redis is down until the launcher's code restarts it."""
AWAY = frozenset(("kill_redis", "pause_redis", "reset_redis", "cut_redis"))
"""Faults after which Redis is up again when they end. (`Rig.redis_back_s` has the others.)"""


def draw_schedule(rng: random.Random, rounds: int) -> list[str]:
    """Return every kind `rounds` times, shuffled within each round."""
    schedule: list[str] = []
    for _ in range(rounds):
        schedule += rng.sample(list(KINDS), len(KINDS))
    return schedule


def _cut(blow: Blow, name: str) -> int:
    proxy = blow.rig.proxies[name]
    proxy.cut(after_bytes=blow.rng.randrange(1, 600))
    blow.hold()
    proxy.heal()
    return blow.rig.slots


def _delay(blow: Blow, name: str) -> int:
    proxy = blow.rig.proxies[name]
    proxy.delay(blow.rng.uniform(0.02, 0.3))
    blow.hold()
    proxy.heal()
    return 0


def _mood(blow: Blow, mood: str) -> int:
    path = blow.rig.notes_dir / f"{blow.service()}.mood"
    path.write_text(mood)
    blow.hold()
    path.unlink()
    return blow.rig.slots
