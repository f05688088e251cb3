"""How long runs will take, by what earlier ones took, or where there are none by sizes."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable

from benchmarks.suite.networks import NETWORKS
from benchmarks.suite.plan import STAGES, stage
from benchmarks.suite.records import Key, Records

#: Seconds of a run beside what is timed in it: daemons start and rest, and all is removed.
_AROUND = 2.0
#: Bytes a second of a loopback, and of unpacking or reading files.
_LOOPBACK, _FILES = 200e6, 30e6
#: What is fetched until an image is ready that is not pulled whole, of the image.
_LAZY_SHARE = 0.2
_USUAL_BYTES = 80e6


class Estimate:
    """Made of earlier records, the later the better."""

    def __init__(self, earlier: Iterable[Records]) -> None:
        taken: dict[tuple[str, ...], list[float]] = defaultdict(list)
        self._bytes: dict[str, float] = {}
        for records in earlier:
            for line in records.of("format", format="plain"):
                self._bytes[line["image"]] = line["bytes"]
            for line in records.of("run"):
                last = max(line["seconds"].values())
                key = (line["kind"], line["image"], line["mode"], line["network"])
                taken[key].append(line.get("whole", last + _AROUND))
        self._taken = {key: statistics.median(samples) for key, samples in taken.items()}

    def seconds(self, key: Key) -> float:
        known = self._taken.get((key.kind, key.image, key.mode, key.network))
        return self._by_size(key) if known is None else known

    def _by_size(self, key: Key) -> float:
        if key.mode in ("warm", "native"):
            return 2 * _AROUND
        whole = key.kind != "start" or key.mode.startswith("oci-")
        size = self._bytes.get(key.image, _USUAL_BYTES) * (1 if whole else _LAZY_SHARE)
        megabits = NETWORKS[key.network].megabits
        rate = megabits * 1e6 / 8 if megabits else _LOOPBACK
        return _AROUND + 1 + size / rate + size / _FILES


def table(keys: Iterable[Key], estimate: Estimate) -> str:
    """Runs and minutes of each stage, and minutes until it is over."""
    runs = [0] * len(STAGES)
    seconds = [0.0] * len(STAGES)
    for key in keys:
        runs[stage(key)] += 1
        seconds[stage(key)] += estimate.seconds(key)
    lines = [f"{'runs':>6}{'minutes':>9}{'in all':>8}  what"]
    over = 0.0
    for text, count, taken in zip(STAGES, runs, seconds, strict=True):
        over += taken / 60
        if count:
            lines.append(f"{count:>6}{taken / 60:>9.0f}{over:>8.0f}  {text}")
    return "\n".join(lines)
