"""What is measured, and in which order: what tells most comes first, so that a part is of use.

Within a stage the images come in a random order, and so do an image's runs. The order is
drawn from a seed that the record keeps, so that a measurement that is gone on with goes on in it.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.suite.modes import Mode
from benchmarks.suite.networks import Network, charted
from benchmarks.suite.records import Key
from benchmarks.suite.subject import Subject

HEADLINE_MODES = ("oci-containerd", "estargz-optimized", "nydus", "nydus-optimized")
HEADLINE_NETWORK = "100mbit"
#: Starts of each kind that come before any more of the same: of what the headline shows, of others.
_MOST, _FIRST = 5, 3
#: Images that say much about a network or a mode in little time.
FEW = ("nginx", "python", "node", "postgres")
_OPTIMIZED = ("estargz-optimized", "nydus-optimized")
_READ = ("oci-containerd", "nydus")
_LOCAL = ("warm", "native")

#: What is measured, in this order.
STAGES = (
    "headline: five starts of each image, 100 Mbit/s",
    "headline modes, few images, other networks",
    "other modes, few images, 100 Mbit/s or none",
    "optimized images, other networks",
    "reading through, few images, pulled and lazily, 100 Mbit/s",
    "optimized images, other networks, five starts",
    "reading through, all images, pulled and lazily, 100 Mbit/s",
    "headline modes, other networks, three starts",
    "other modes, 100 Mbit/s, three starts",
    "reading through by headline modes, 100 Mbit/s",
    "other modes, other networks, three starts",
    "further starts",
    "further reading",
)


@dataclass(frozen=True)
class Asked:
    """What to measure. `reads` is how often each tree is read through, in order and scattered."""

    subjects: Sequence[Subject]
    modes: Sequence[Mode]
    networks: Sequence[Network]
    runs: int
    reads: int


def keys(asked: Asked, subject: Subject) -> Iterator[Key]:
    """All runs of an image. Trees are read through where that compares: over the charts' network
    as often as asked and in random order too, once over the others.
    """
    chart = charted([network.name for network in asked.networks])
    for network in asked.networks:
        for mode in asked.modes:
            if local(mode) and network is not asked.networks[0]:
                continue
            repeats = {"start": asked.runs}
            if not local(mode):
                repeats["read"] = asked.reads if network.name == chart else min(asked.reads, 1)
                repeats["scatter"] = asked.reads if network.name == chart else 0
            for kind, count in repeats.items():
                for repeat in range(count):
                    yield Key(kind, subject.name, mode.name, network.name, repeat)


def local(mode: Mode) -> bool:
    """Needs no network: measured on the first one only."""
    return mode.again or mode.name == "native"


def stage(key: Key) -> int:
    """Which of `STAGES` it belongs to."""
    return _start_stage(key) if key.kind == "start" else _read_stage(key)


def _start_stage(key: Key) -> int:
    here = key.network == HEADLINE_NETWORK
    is_headline = key.mode in HEADLINE_MODES
    if here and is_headline and key.repeat < _MOST:
        return 0
    if key.repeat == 0 and key.image in FEW and (here or is_headline or key.mode in _LOCAL):
        return 1 if is_headline else 2
    if key.mode in _OPTIMIZED and key.repeat < _MOST:
        return 5 if key.repeat else 3
    if key.repeat >= _FIRST:
        return 11
    if is_headline:
        return 7
    return 8 if here else 10


def _read_stage(key: Key) -> int:
    if key.repeat or key.network != HEADLINE_NETWORK or key.mode not in HEADLINE_MODES:
        return 12
    if key.mode in _READ:
        return 4 if key.image in FEW else 6
    return 9


def turns(
    asked: Asked, seed: int, done: Collection[Key] = ()
) -> Iterator[tuple[Subject, list[Key]]]:
    """An image and its runs of one stage, until there is no more that is not done."""
    subjects = list(asked.subjects)
    random.Random(seed).shuffle(subjects)
    all_keys = {subject.name: list(keys(asked, subject)) for subject in subjects}
    for number in sorted({stage(key) for found in all_keys.values() for key in found}):
        for subject in subjects:
            turn = [key for key in all_keys[subject.name] if stage(key) == number]
            random.Random(f"{seed} {subject.name} {number}").shuffle(turn)
            if todo := [key for key in turn if key not in done]:
                yield subject, todo
