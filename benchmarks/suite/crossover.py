"""How much of an image must be read for it to be better to have fetched all of it first."""

from __future__ import annotations

import statistics
from collections import defaultdict

from benchmarks.suite.records import Records

EAGER = "oci-containerd"
_PREFIX = "share "

Curve = list[tuple[float, float]]


def curve(records: Records, image: str, mode: str, network: str) -> Curve:
    """Share of the bytes that was read, and the median moment, rising."""
    samples: dict[float, list[float]] = defaultdict(list)
    for line in records.of("run", kind="scatter", image=image, mode=mode, network=network):
        for name, moment in line["seconds"].items():
            if name.startswith(_PREFIX):
                samples[float(name.removeprefix(_PREFIX))].append(moment)
    return sorted((share, statistics.median(moments)) for share, moments in samples.items())


def share_where_eager_wins(records: Records, image: str, mode: str, network: str) -> float | None:
    """From which share on it is quicker to have fetched everything before; 1.0: never.

    Between the shares that were measured it is interpolated. None without figures of both.
    """
    eager = dict(curve(records, image, EAGER, network))
    lazy = curve(records, image, mode, network)
    if mode == EAGER or not eager or not lazy:
        return None
    last_share = last_lead = 0.0
    for share, moment in lazy:
        if share not in eager:
            continue
        lead = eager[share] - moment
        if lead < 0:
            if last_lead <= 0:
                return last_share
            return last_share + (share - last_share) * last_lead / (last_lead - lead)
        last_share, last_lead = share, lead
    return 1.0
