"""Charts of a measurement, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.suite.crossover import curve, share_where_eager_wins
from benchmarks.suite.networks import NETWORKS
from benchmarks.suite.records import Records
from benchmarks.suite.tables import image_bytes, median, names, source

#: The same digests for the same figures.
_SETTINGS: Any = {"svg.hashsalt": "lazyrun", "font.size": 9, "axes.spines.top": False,
             "axes.spines.right": False}  # fmt: skip
_COLORS = {
    "oci-containerd": "#9a9a9a", "oci-podman": "#c4c4c4", "estargz": "#e0b070",
    "estargz-optimized": "#c98a2e", "nydus": "#5f9fcf", "nydus-fuse": "#8fc1e3",
    "nydus-alone": "#b5d3ea", "nydus-optimized": "#1f5f8f", "nydus-ref": "#5fa08f",
    "warm": "#7fb77e", "native": "#4d7f4c",
}  # fmt: skip
#: The headline's ways to start, the best of each kind that was measured.
_HEADLINE = (("oci-containerd",), ("estargz-optimized", "estargz"), ("nydus-optimized", "nydus"))
_HEADLINE_NETWORK = ("100mbit", "20mbit", "1gbit", "loopback")


def draw_all(records: Records, directory: Path) -> list[Path]:
    """The charts that the figures are there for."""
    with rc_context(_SETTINGS):
        drawn = [
            (name, figure)
            for name, draw in (
                ("startup.svg", headline),
                ("bytes.svg", bytes_needed),
                ("bandwidth.svg", against_bandwidth),
                ("crossover.svg", crossover),
            )
            if (figure := draw(records)) is not None
        ]
        for name, figure in drawn:
            figure.savefig(directory / name, metadata={"Date": None}, bbox_inches="tight")
    return [directory / name for name, _ in drawn]


def headline(records: Records) -> Figure | None:
    """Seconds from nothing to ready, of each image, eager and lazily."""
    network = _present(_HEADLINE_NETWORK, names(records, "network"))
    measured = names(records, "mode")
    modes = [mode for ways in _HEADLINE if (mode := _present(ways, measured))]
    if not network or not modes:
        return None
    images = sorted(names(records, "image"), key=lambda image: image_bytes(records, image))
    labels = [f"{image}\n{image_bytes(records, image) / 1e6:.0f} MB" for image in images]
    rows = [[_ready(records, image, mode, network) for image in images] for mode in modes]
    title = f"From nothing to ready over {NETWORKS[network].text}"
    return _grouped(labels, modes, rows, "seconds", title, source(records))


def bytes_needed(records: Records) -> Figure | None:
    """Megabytes that had come when the program was ready."""
    network = _present(_HEADLINE_NETWORK, names(records, "network"))
    if not network:
        return None
    modes = [mode for mode in names(records, "mode") if mode not in ("native", "warm")]
    images = sorted(names(records, "image"), key=lambda image: image_bytes(records, image))
    rows = [
        [
            _megabytes(median(records.of("run", kind="start", image=image, mode=mode,
                                         network=network), "at_ready", "wire_bytes"))
            for image in images
        ]
        for mode in modes
    ]  # fmt: skip
    title = f"Fetched until ready over {NETWORKS[network].text}"
    return _grouped(images, modes, rows, "MB", title, source(records))


def against_bandwidth(records: Records) -> Figure | None:
    """Seconds to ready by network, one panel for each image."""
    networks = [name for name in names(records, "network") if NETWORKS[name].megabits]
    networks.sort(key=lambda name: NETWORKS[name].megabits or 0)
    if len(networks) < 2:
        return None
    images = names(records, "image")
    figure, panels = _panels(len(images))
    for panel, image in zip(panels, images, strict=True):
        for mode in names(records, "mode"):
            points = [(NETWORKS[name].megabits, _ready(records, image, mode, name))
                      for name in networks]  # fmt: skip
            there = [(x, y) for x, y in points if y is not None]
            if len(there) > 1:
                panel.plot(
                    *zip(*there, strict=True), marker="o", color=_COLORS.get(mode), label=mode
                )
        panel.set(
            xscale="log", yscale="log", title=image, xlabel="Mbit/s", ylabel="seconds to ready"
        )
    return _finished(figure, panels, source(records))


def crossover(records: Records) -> Figure | None:
    """Seconds until a share of the image's files was read, in an order of no meaning."""
    network = _present(_HEADLINE_NETWORK, names(records, "network"))
    if not network:
        return None
    scattered = {line["image"] for line in records.of("run", kind="scatter", network=network)}
    images = [image for image in names(records, "image") if image in scattered]
    if not images:
        return None
    figure, panels = _panels(len(images))
    for panel, image in zip(panels, images, strict=True):
        for mode in names(records, "mode"):
            if points := curve(records, image, mode, network):
                share = share_where_eager_wins(records, image, mode, network)
                text = mode if share is None else f"{mode}: to {share:.0%}"
                panel.plot(*zip(*points, strict=True), color=_COLORS.get(mode), label=text)
        panel.set(title=f"{image}, {NETWORKS[network].text}", xlabel="share read", ylabel="seconds")
        panel.legend(frameon=False, fontsize=7)
    return _finished(figure, (), source(records))


def _present(wanted: Sequence[str], there: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in there), None)


def _ready(records: Records, image: str, mode: str, network: str) -> float | None:
    lines = records.of("run", kind="start", image=image, mode=mode, network=network)
    return median(lines, "seconds", "ready")


def _megabytes(value: float | None) -> float | None:
    return None if value is None else value / 1e6


def _grouped(
    labels: Sequence[str],
    modes: Sequence[str],
    rows: Sequence[Sequence[float | None]],
    unit: str,
    title: str,
    note: str,
) -> Figure:
    """Bars side by side for each label, with their values; a lack of one is left blank."""
    figure = Figure(figsize=(max(6.0, 1.1 * len(labels) + 1), 3.6))
    panel = figure.subplots()
    width = 0.8 / len(modes)
    for number, (mode, row) in enumerate(zip(modes, rows, strict=True)):
        places = [index + (number + 0.5) * width - 0.4 for index in range(len(labels))]
        bars = panel.bar(places, [value or 0 for value in row], width, label=mode,
                         color=_COLORS.get(mode))  # fmt: skip
        panel.bar_label(bars, ["" if v is None else f"{v:.1f}" for v in row], fontsize=6, padding=1)
    panel.set_xticks(range(len(labels)), labels)
    panel.set(ylabel=unit)
    panel.set_title(title, pad=26)
    panel.legend(frameon=False, ncols=4, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
    return _finished(figure, (), note)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(3.6 * columns, 3 * rows))
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in panels[count:]:
        spare.set_visible(False)
    return figure, panels[:count]


def _finished(figure: Figure, panels: Sequence[Axes], note: str) -> Figure:
    if panels:
        figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, fontsize=7,
                      loc="lower center", ncols=4, bbox_to_anchor=(0.5, -0.1))  # fmt: skip
    figure.tight_layout()
    figure.text(0.01, -0.03, note, fontsize=5, wrap=True)
    return figure
