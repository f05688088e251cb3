"""Charts of a measurement, by matplotlib: what is drawn, from which figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.suite.crossover import EAGER, curve, share_where_eager_wins
from benchmarks.suite.drawing import SETTINGS, WAYS, bars, finished_panels, panels, scale
from benchmarks.suite.medians import image_bytes, median, names
from benchmarks.suite.networks import NETWORKS, charted
from benchmarks.suite.plan import HEADLINE_MODES
from benchmarks.suite.records import Records
from benchmarks.suite.tables import source

#: The headline's ways to start, the best of each kind that was measured.
_HEADLINE = (("oci-containerd",), ("estargz-optimized", "estargz"), ("nydus-optimized", "nydus"))


def draw_all(records: Records, directory: Path, kind: str = "svg") -> list[Path]:
    """The charts that the figures are there for; an older one of the others is removed."""
    with rc_context(SETTINGS):
        drawn = []
        for name, draw, needed in (
            ("startup", headline, "starts"),
            ("bytes", bytes_needed, "starts"),
            ("bandwidth", against_bandwidth, "starts of an image over two networks with a rate"),
            ("crossover", crossover, "trees that were read in random order"),
        ):
            path = directory / f"{name}.{kind}"
            figure = draw(records)
            if figure is None:
                path.unlink(missing_ok=True)
                print(f"· without the chart {path.name}: no {needed}", file=sys.stderr)
            else:
                drawn.append((path, figure))
        for path, figure in drawn:
            dated = {"metadata": {"Date": None}} if kind == "svg" else {"dpi": 110}
            figure.savefig(path, **dated)
    return [path for path, _ in drawn]


def headline(records: Records) -> Figure | None:
    """Seconds from nothing to ready, of each image that was started in all of these ways."""
    network = charted(names(records, "network"))
    measured = names(records, "mode")
    modes = [mode for ways in _HEADLINE if (mode := _present(ways, measured))]
    if not network or not modes:
        return None
    started = {
        image: [_ready(records, image, mode, network) for mode in modes]
        for image in _started(records, network)
    }
    images = [image for image, ready in started.items() if None not in ready] or list(started)
    rows = [list(row) for row in zip(*(started[image] for image in images), strict=True)]
    title = f"From nothing to ready, {NETWORKS[network].text} to the registry"
    subtitle = (
        "Seconds until the program answers or prints what it should; medians. "
        "Nothing cached; in brackets what a full pull fetches."
    )
    text = (title, subtitle, source(records))
    return bars(_sized(records, images), modes, rows, "seconds", text)


def bytes_needed(records: Records) -> Figure | None:
    """Megabytes that had come when the program was ready."""
    network = charted(names(records, "network"))
    if not network:
        return None
    modes = _shown(records)
    images = _started(records, network)
    rows = [[_fetched(records, image, mode, network) for image in images] for mode in modes]
    title = f"Fetched until ready, {NETWORKS[network].text} to the registry"
    subtitle = "MB, as the network interface counts them; medians."
    return bars(images, modes, rows, "MB", (title, subtitle, source(records)))


def against_bandwidth(records: Records) -> Figure | None:
    """Seconds to ready by network, one panel for each image."""
    networks = [name for name in names(records, "network") if NETWORKS[name].megabits]
    networks.sort(key=lambda name: NETWORKS[name].megabits or 0)
    modes = _shown(records)
    images = _by_size(records, [
        image for image in names(records, "image")
        if any(_measured_over(records, image, mode, networks) > 1 for mode in modes)
    ])  # fmt: skip
    if not images:
        return None
    figure, made = panels(len(images))
    rates = [float(NETWORKS[name].megabits or 0) for name in networks]
    for panel, image in zip(made, images, strict=True):
        for mode in modes:
            there = [(rate, ready) for rate, name in zip(rates, networks, strict=True)
                     if (ready := _ready(records, image, mode, name)) is not None]  # fmt: skip
            if there:
                panel.plot(*zip(*there, strict=True), marker="o", markersize=3,
                           color=WAYS[mode].color)  # fmt: skip
        scale(panel, rates, both=True)
        panel.set_title(image, fontsize=9, pad=3)
    ways = "; ".join(NETWORKS[name].text for name in networks)
    text = ("Time to ready against bandwidth", f"Networks: {ways}. Both axes are logarithmic.",
            source(records))  # fmt: skip
    return finished_panels(figure, modes, ("Mbit/s", "seconds to ready"), text)


def crossover(records: Records) -> Figure | None:
    """Seconds until a share of the image's files was read, in an order of no meaning."""
    network = charted(names(records, "network"))
    if not network:
        return None
    scattered = {line["image"] for line in records.of("run", kind="scatter", network=network)}
    images = _by_size(records, [name for name in names(records, "image") if name in scattered])
    modes = [
        mode for mode in _shown(records)
        if any(curve(records, image, mode, network) for image in images)
    ]  # fmt: skip
    if not modes:
        return None
    figure, made = panels(len(images))
    for panel, image in zip(made, images, strict=True):
        for mode in modes:
            if points := curve(records, image, mode, network):
                panel.plot(*zip(*((100 * share, moment) for share, moment in points), strict=True),
                           color=WAYS[mode].color)  # fmt: skip
        panel.set_title(_told(records, image, modes, network), fontsize=8, pad=3)
        panel.set_xlim(0, 100)
        scale(panel, (0, 25, 50, 75, 100), both=False)
    title = f"How much of an image must be read for a full pull to win, {NETWORKS[network].text}"
    subtitle = "Files read one after the other in random order, nothing cached. "
    if modes[-1] != EAGER:
        ahead = WAYS[modes[-1]].label
        subtitle += f"The figure: until which share {ahead} is ahead of containerd's pull."
    return finished_panels(
        figure, modes, ("% of the bytes read", "seconds"), (title, subtitle, source(records))
    )


def _measured_over(records: Records, image: str, mode: str, networks: Sequence[str]) -> int:
    return sum(_ready(records, image, mode, network) is not None for network in networks)


def _told(records: Records, image: str, modes: Sequence[str], network: str) -> str:
    share = share_where_eager_wins(records, image, modes[-1], network)
    return image if share is None else f"{image}: to {share:.0%}"


def _shown(records: Records) -> list[str]:
    """Few enough to be told from each other; tables have all."""
    measured = names(records, "mode")
    chosen = [mode for mode in HEADLINE_MODES if mode in measured]
    return chosen or [mode for mode in measured if mode in WAYS][:4]


def _started(records: Records, network: str) -> list[str]:
    there = {line["image"] for line in records.of("run", kind="start", network=network)}
    return _by_size(records, sorted(there))


def _by_size(records: Records, images: Sequence[str]) -> list[str]:
    return sorted(images, key=lambda image: image_bytes(records, image))


def _sized(records: Records, images: Sequence[str]) -> list[str]:
    return [f"{image} ({image_bytes(records, image) / 1e6:.0f} MB)" for image in images]


def _present(wanted: Sequence[str], there: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in there), None)


def _ready(records: Records, image: str, mode: str, network: str) -> float | None:
    lines = records.of("run", kind="start", image=image, mode=mode, network=network)
    return median(lines, "seconds", "ready")


def _fetched(records: Records, image: str, mode: str, network: str) -> float | None:
    lines = records.of("run", kind="start", image=image, mode=mode, network=network)
    value = median(lines, "at_ready", "wire_bytes")
    return None if value is None else value / 1e6
