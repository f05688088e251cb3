"""What the figures come to: medians of our image against those of who does the same otherwise.

One row for each image and network that both were measured over. Below 1 we are quicker, or
fetch less. Bytes are those on the wire: the registry's log counts an answer when it is over, and
over a slow line programs are ready while a long answer still comes.
"""

from __future__ import annotations

from benchmarks.suite.medians import median, names
from benchmarks.suite.records import Records

_OURS, _PLAIN, _LAZY, _EAGER = "nydus-optimized", "nydus", "estargz-optimized", "oci-containerd"
COLUMNS = (
    "image",
    "network",
    "optimized: ready",
    "not optimized: ready",
    "optimized: bytes",
    "optimized: of OCI",
    "requests",
    "full read: of OCI",
)


def rows(records: Records) -> list[list[str]]:
    """Of images that were started, or read through, by one of ours and by another."""
    found = []
    for network in names(records, "network"):
        for image in names(records, "image"):
            figures = _figures(_Place(records, image, network))
            if any([*figures[:4], figures[-1]]):
                found.append([image, network, *figures])
    return found


class _Place:
    """Medians of an image over a network."""

    def __init__(self, records: Records, image: str, network: str) -> None:
        self._records, self._image, self._network = records, image, network

    def median(self, mode: str, *path: str, kind: str = "start") -> float | None:
        runs = self._records.of(
            "run", kind=kind, image=self._image, mode=mode, network=self._network
        )
        return median(runs, *path)

    def ratio(self, mode: str, other: str, *path: str, kind: str = "start") -> str:
        ours, theirs = (self.median(each, *path, kind=kind) for each in (mode, other))
        return "" if ours is None or not theirs else f"{ours / theirs:.2f}"


def _figures(place: _Place) -> list[str]:
    ready, arrived = ("seconds", "ready"), ("at_ready", "wire_bytes")
    requests = place.median(_OURS, "at_ready", "requests")
    return [
        place.ratio(_OURS, _LAZY, *ready),
        place.ratio(_PLAIN, _LAZY, *ready),
        place.ratio(_OURS, _LAZY, *arrived),
        place.ratio(_OURS, _EAGER, *ready),
        "" if requests is None else f"{requests:.0f}",
        place.ratio(_PLAIN, _EAGER, "seconds", "read", kind="read"),
    ]
