"""What was measured, as Markdown tables of medians."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.suite import ratios
from benchmarks.suite.medians import image_bytes, median, names, spread, values
from benchmarks.suite.networks import NETWORKS
from benchmarks.suite.records import Line, Records, alone

MOMENTS = (
    "runner",
    "resolve",
    "pull",
    "image",
    "create",
    "root",
    "executed",
    "first output",
    "ready",
    "ended",
)
_RATIOS = """### Against others

Ratios of medians: ready, and bytes on the wire until then, to `estargz-optimized` (`of OCI`: to
`oci-containerd`), reading all by `nydus` to pulling and reading by `oci-containerd`;
requests are those of `nydus-optimized` until ready."""


def markdown(records: Records) -> str:
    """All tables, and where they come from."""
    parts = []
    if compared := ratios.rows(records):
        parts += [_RATIOS, _table(ratios.COLUMNS, 2, compared)]
    for network in names(records, "network"):
        title = f"### From nothing to ready, {NETWORKS[network].text}"
        parts += [title, _starts(records, network)]
    if any(records.of("run", kind="read")):
        for network in names(records, "network"):
            parts += [
                f"### Reading all of the image, {NETWORKS[network].text}",
                _reads(records, network),
            ]
    parts += ["### Conversion", _conversions(records), f"({source(records)})"]
    return "\n\n".join(parts)


def source(records: Records) -> str:
    """One line about the measurement."""
    head = records.last_head
    dates = " to ".join(sorted({each["date"][:10] for each in records.heads}))
    commits = ", ".join(dict.fromkeys(each["commit"] for each in records.heads))
    versions = ", ".join(f"{name} {version}" for name, version in head["versions"].items())
    return (
        f"{head['cores']} cores, {head['memory_bytes'] / 2**30:.0f} GiB, Linux {head['kernel']}, "
        f"Python {head['python']}, {versions}; {dates}, commit {commits}, "
        f"seed {records.head['seed']}; caches empty and page cache dropped before each run"
        + ("" if records.complete else "; not all of what was asked for is done")
    )


def _table(columns: Sequence[str], left: int, rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |"]
    lines.append("|" + "---|" * left + "---:|" * (len(columns) - left))
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _starts(records: Records, network: str) -> str:
    columns = ["image", "mode", "ready s", "p95", "of OCI", *MOMENTS[:-2], "MB", "wire MB",
               "requests", "MB at end", "CPU s", "memory MB", "runs"]  # fmt: skip
    rows = []
    for image in names(records, "image"):
        eager = median(_of(records, "start", image, "oci-containerd", network), "seconds", "ready")
        for mode in names(records, "mode"):
            lines = _of(records, "start", image, mode, network)
            if not lines:
                continue
            ready = spread(values(lines, "seconds", "ready"))
            not_lazy = any(line.get("lazy") is False for line in lines)
            row = [
                image,
                f"{mode} (not lazy)" if not_lazy else mode,
                f"{ready.median:.2f}",
                f"{ready.p95:.2f}",
            ]
            row.append(f"{ready.median / eager:.2f}" if eager else "")
            row += [_figure(median(lines, "seconds", name), 1, 2) for name in MOMENTS[:-2]]
            row += [_figure(median(lines, "at_ready", "fetched_bytes"), 1e6, 1),
                    _figure(median(lines, "at_ready", "wire_bytes"), 1e6, 1),
                    _figure(median(lines, "at_ready", "requests"), 1, 0),
                    _figure(median(lines, "at_end", "fetched_bytes"), 1e6, 1),
                    _figure(median(lines, "at_ready", "cpu_seconds"), 1, 2),
                    _figure(median(lines, "at_ready", "peak_memory"), 1e6, 0),
                    str(ready.runs)]  # fmt: skip
            rows.append(row)
    return _table(columns, 2, rows)


def _reads(records: Records, network: str) -> str:
    columns = ["image", "mode", "read s", "of OCI", "MB", "requests", "CPU s", "runs"]
    rows = []
    for image in names(records, "image"):
        eager = median(_of(records, "read", image, "oci-containerd", network), "seconds", "read")
        for mode in names(records, "mode"):
            lines = _of(records, "read", image, mode, network)
            taken = median(lines, "seconds", "read")
            if taken is None:
                continue
            rows.append(
                [image, mode, f"{taken:.2f}", f"{taken / eager:.2f}" if eager else "",
                 _figure(median(lines, "at_ready", "fetched_bytes"), 1e6, 1),
                 _figure(median(lines, "at_ready", "requests"), 1, 0),
                 _figure(median(lines, "at_ready", "cpu_seconds"), 1, 2), str(len(lines))]
            )  # fmt: skip
    return _table(columns, 2, rows)


def _conversions(records: Records) -> str:
    """Of conversions that were timed again the last."""
    last = {(line["image"], line["format"]): line for line in records.of("format")}
    cores = records.head["cores"]
    rows = [
        [line["image"], line["format"],
         f"{line['seconds']:.1f}" if alone(line, cores) else "(busy)",
         f"{line['bytes'] / 1e6:.1f}",
         f"{line['bytes'] / (image_bytes(records, line['image']) or line['bytes']):.2f}"]
        for line in last.values()
    ]  # fmt: skip
    return _table(["image", "format", "seconds", "MB", "of OCI"], 2, rows)


def _of(records: Records, kind: str, image: str, mode: str, network: str) -> list[Line]:
    return list(records.of("run", kind=kind, image=image, mode=mode, network=network))


def _figure(value: float | None, unit: float, digits: int) -> str:
    return "" if value is None else f"{value / unit:.{digits}f}"
