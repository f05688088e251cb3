"""A small measurement, made up, for the tests of what is made of measurements."""

from __future__ import annotations

from typing import Any

from benchmarks.suite.records import Records

HEAD: dict[str, Any] = {
    "asked": {
        "images": ["python", "redis"],
        "modes": ["oci-containerd", "nydus"],
        "networks": ["loopback", "100mbit"],
    },
    "seed": 7,
    "cores": 2,
    "memory_bytes": 8 << 30,
    "kernel": "6.18",
    "python": "3.11.2",
    "versions": {"runc": "1.1.5"},
    "date": "2026-01-02T03:04:05Z",
    "commit": "abc",
}


def measurement(eager: list[float], lazy: list[float], network: str = "100mbit") -> Records:
    """Starts of one image by two modes that were ready after so many seconds."""
    records = Records([])
    records.add("head", **HEAD)
    records.add("format", image="python", format="plain", seconds=1.0, bytes=50_000_000,
                load=9.0)  # fmt: skip
    records.add("format", image="python", format="nydus", seconds=2.0, bytes=60_000_000,
                load=1.0)  # fmt: skip
    for mode, samples in (("oci-containerd", eager), ("nydus", lazy)):
        for repeat, ready in enumerate(samples):
            used = {"fetched_bytes": 4_000_000, "requests": 9, "wire_bytes": 4_100_000,
                    "cpu_seconds": 0.25, "peak_memory": 70_000_000}  # fmt: skip
            records.add(
                "run", kind="start", image="python", mode=mode, network=network, repeat=repeat,
                seconds={"pull": ready / 2, "ready": ready}, at_ready=used, at_end=used,
            )  # fmt: skip
    return records


def scattered(records: Records, mode: str, moments: dict[str, float]) -> None:
    """Add a run that read the tree in no order."""
    records.add(
        "run", kind="scatter", image="python", mode=mode, network="100mbit", repeat=0,
        seconds={f"share {share}": moment for share, moment in moments.items()},
    )  # fmt: skip
