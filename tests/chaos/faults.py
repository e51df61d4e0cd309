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
class FaultContext:
    """Arguments of one fault: the rig, the duration, and a random generator."""

    rig: Rig
    rng: random.Random
    hold_s: float

    def hold(self) -> None:
        time.sleep(self.hold_s)

    def service(self) -> str:
        return self.rng.choice(Services)


Fault = Callable[[FaultContext], int]
"""Function that injects a fault and returns the number of slots it may have interrupted."""


def kill_worker(context: FaultContext) -> int:
    index = context.rng.randrange(len(context.rig.workers))
    context.rig.workers[index].kill()
    context.rig.start_worker(index)
    return context.rig.concurrency


def kill_dispatcher(context: FaultContext) -> int:
    dispatcher = context.rng.choice(context.rig.dispatchers)
    dispatcher.kill()
    context.hold()
    dispatcher.start()
    return 0


def kill_redis(context: FaultContext) -> int:
    context.rig.kill_redis()
    context.hold()
    context.rig.start_redis()
    return context.rig.slots


def lose_redis(context: FaultContext) -> int:
    """Kill Redis; the launcher has to restart it."""
    context.rig.kill_redis()
    return context.rig.slots


def damage_aof(context: FaultContext) -> int:
    """Kill Redis and damage its append-only file, as a power cut may; the launcher restarts it."""
    context.rig.kill_redis()
    path = context.rig.aof
    content = path.read_bytes()
    match context.rng.choice(("zeros", "cut", "noise")):
        case "zeros":
            path.write_bytes(content + bytes(context.rng.randrange(1, 8192)))
        case "cut":
            path.write_bytes(content[: context.rng.randrange(len(content) + 1)])
        case "noise":
            start = context.rng.randrange(len(content) + 1)
            path.write_bytes(content[:start] + context.rng.randbytes(64) + content[start + 64 :])
    return context.rig.slots


def flush_redis(context: FaultContext) -> int:
    with context.rig.redis() as client:
        client.flushall()
    return 0


def pause_redis(context: FaultContext) -> int:
    """Pause Redis by its own command, or stop its process, as a swapping machine would."""
    if context.rng.random() < 0.5:
        with context.rig.redis() as client:
            client.client_pause(int(1000 * context.hold_s))
        context.hold()
    else:
        os.kill(context.rig.redis_pid, signal.SIGSTOP)
        context.hold()
        os.kill(context.rig.redis_pid, signal.SIGCONT)
    return context.rig.slots


def reset_redis(context: FaultContext) -> int:
    context.rig.proxies["redis"].reset()
    return context.rig.slots


def cut_redis(context: FaultContext) -> int:
    return _cut(context, "redis")


def delay_redis(context: FaultContext) -> int:
    return _delay(context, "redis")


def service_answers_429(context: FaultContext) -> int:
    return _answer_with(context, "busy")


def service_answers_503(context: FaultContext) -> int:
    return _answer_with(context, "away")


def service_hangs(context: FaultContext) -> int:
    service = context.rig.services[context.service()]
    service.signal(signal.SIGSTOP)
    context.hold()
    service.signal(signal.SIGCONT)
    return context.rig.slots


def kill_service(context: FaultContext) -> int:
    kind = context.service()
    context.rig.services[kind].kill()
    context.hold()
    context.rig.start_service(kind)
    context.rig.wait_ready([kind])
    return context.rig.slots


def reset_service(context: FaultContext) -> int:
    context.rig.proxies[context.service()].reset()
    return context.rig.slots


def cut_service(context: FaultContext) -> int:
    return _cut(context, context.service())


def delay_service(context: FaultContext) -> int:
    return _delay(context, context.service())


def fill_disk(context: FaultContext) -> int:
    context.rig.disk.fill(context.rig.writers())
    context.hold()
    context.rig.disk.free(context.rig.writers())
    return context.rig.slots


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


def _cut(context: FaultContext, name: str) -> int:
    proxy = context.rig.proxies[name]
    proxy.cut(after_bytes=context.rng.randrange(1, 600))
    context.hold()
    proxy.heal()
    return context.rig.slots


def _delay(context: FaultContext, name: str) -> int:
    proxy = context.rig.proxies[name]
    proxy.delay(context.rng.uniform(0.02, 0.3))
    context.hold()
    proxy.heal()
    return 0


def _answer_with(context: FaultContext, fault: str) -> int:
    path = context.rig.notes_dir / f"{context.service()}.fault"
    path.write_text(fault)
    context.hold()
    path.unlink()
    return context.rig.slots
