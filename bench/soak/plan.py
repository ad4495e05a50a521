"""What strikes whom in a soak, and when: drawn from a seed."""

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

SERVERS = ("kafka", "store", "triton")
PROXIES = ("store", "triton")
DISKS = ("store", "windows")


class FaultKind(StrEnum):
    """What is done, and to whom it can be done."""

    KILL = "kill"
    STOP = "stop"
    RESTART = "restart"
    AWAY = "away"
    REBALANCE = "rebalance"
    SLOW = "slow"
    HOLD = "hold"
    CUT = "cut"
    CLOCK = "clock"
    FULL_DISK = "full_disk"
    POISON = "poison"
    FLUSH = "flush"
    RESTORE = "restore"
    REMAKE = "remake"


@dataclass(frozen=True)
class Fault:
    """One fault, once so many events were sent.

    Attributes:
        target: a process, a server, a topic.
        for_s: how long it lasts, where it lasts; of a clock: how far it jumps.
        inwards: of a proxy: whether requests are struck, or answers.
    """

    at_event: int
    kind: FaultKind
    target: str
    for_s: float = 0.0
    inwards: bool = True

    def describe(self) -> str:
        """The fault as a line."""
        lasting = f" {self.for_s:+.0f} s" if self.kind is FaultKind.CLOCK else f" {self.for_s} s"
        way = ", requests" if self.inwards else ", answers"
        return (
            f"{self.kind} {self.target}{lasting if self.for_s else ''}"
            f"{way if self.kind in (FaultKind.SLOW, FaultKind.HOLD) else ''}"
        )


# Seconds, from and to. Some stops outlast a worker's session of 6 s and a controller's lease.
_LASTING = {
    FaultKind.STOP: (1.0, 9.0),
    FaultKind.AWAY: (5.0, 15.0),
    FaultKind.REBALANCE: (3.0, 8.0),
    FaultKind.SLOW: (3.0, 8.0),
    FaultKind.HOLD: (2.0, 8.0),
    FaultKind.FULL_DISK: (3.0, 8.0),
    # Beyond an hour an event counts as too old to be answered.
    FaultKind.CLOCK: (-3000.0, 3000.0),
}
# What makes workers read everything again comes early, while that is little; and before a topic
# loses what rows hold.
_EARLY = {FaultKind.FLUSH: (0.02, 0.08), FaultKind.RESTORE: (0.04, 0.1)}
_LATE = (0.1, 1.0)
# By so many faults one of these, which take long; of the others the rest.
_RARE = {FaultKind.FLUSH: 50, FaultKind.RESTORE: 50, FaultKind.REMAKE: 50}


def plan_faults(
    seed: int, events: int, faults: int, services: Collection[str], kinds: Collection[FaultKind]
) -> list[Fault]:
    """Faults in the order in which they strike; the same for the same arguments.

    Args:
        services: names of the processes; those of workers begin with `worker`.
        kinds: what can be done on this machine.
    """
    chance = random.Random(seed)
    able = [kind for kind in FaultKind if kind in kinds]
    rare = [kind for kind in able if kind in _RARE for _ in range(max(1, faults // _RARE[kind]))]
    often = [kind for kind in able if kind not in _RARE]
    struck = dict.fromkeys(often)
    once = [*rare, *struck]
    if faults < len(once):
        once = chance.sample(once, faults)
    drawn = [*once, *chance.choices(often, k=faults)][:faults]
    return sorted(_draw(drawn, events, sorted(services), chance), key=lambda each: each.at_event)


def _draw(
    kinds: Collection[FaultKind], events: int, services: list[str], chance: random.Random
) -> Iterator[Fault]:
    targets = {kind: _list_targets(kind, services) for kind in kinds}
    for names in targets.values():
        chance.shuffle(names)
    for number, kind in enumerate(kinds):
        first, last = _EARLY.get(kind, _LATE)
        at = int(events * chance.uniform(first, last))
        lasting = round(chance.uniform(*_LASTING[kind]), 1) if kind in _LASTING else 0.0
        # In turns: everybody is struck where there are enough faults.
        target = targets[kind][number % len(targets[kind])]
        yield Fault(at, kind, target, lasting, chance.random() < 0.5)


def _list_targets(kind: FaultKind, services: list[str]) -> list[str]:
    if kind is FaultKind.CLOCK:
        return [name for name in services if name.startswith("worker")]
    return list(_TARGETS.get(kind, (*SERVERS, *services)))


_TARGETS = {
    FaultKind.AWAY: ("triton", "store"),
    FaultKind.SLOW: PROXIES,
    FaultKind.HOLD: PROXIES,
    FaultKind.CUT: PROXIES,
    FaultKind.FULL_DISK: DISKS,
    FaultKind.FLUSH: ("store",),
    FaultKind.RESTORE: ("store",),
    FaultKind.REMAKE: ("purchases",),
    FaultKind.REBALANCE: ("workers",),
    FaultKind.POISON: ("topics",),
}
