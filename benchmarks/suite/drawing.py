"""How charts look: horizontal bars that compare ways, and small panels that share their axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

#: The same digests for the same figures, and text that stays text.
SETTINGS: Any = {
    "svg.hashsalt": "lazyrun", "svg.fonttype": "none", "font.family": "sans-serif",
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": "#999999", "axes.axisbelow": True, "text.color": "#222222",
    "axes.labelcolor": "#444444", "xtick.color": "#444444", "ytick.color": "#222222",
}  # fmt: skip


class Way(NamedTuple):
    """A mode as readers know it."""

    label: str
    color: str


WAYS = {
    "oci-containerd": Way("OCI, containerd", "#a7adb3"),
    "oci-podman": Way("OCI, podman", "#cfd3d6"),
    "estargz": Way("eStargz", "#ecc883"),
    "estargz-optimized": Way("eStargz, optimized", "#dc9a2d"),
    "nydus": Way("nydus", "#86b8dc"),
    "nydus-fuse": Way("nydus, by FUSE", "#a9cfe8"),
    "nydus-alone": Way("nydus, daemon started too", "#c4dcee"),
    "nydus-blob": Way("nydus, start guessed", "#4f93c4"),
    "nydus-optimized": Way("nydus, optimized", "#17649f"),
    "nydus-ref": Way("nydus, no conversion", "#4fa392"),
    "warm": Way("nydus, all cached", "#8cbf7a"),
    "native": Way("unpacked on disk", "#4d7f4c"),
}

_ROOM = 1.12  # for the figure beside the longest bar
_FOOT = "#888888"


def bars(
    labels: Sequence[str],
    modes: Sequence[str],
    rows: Sequence[Sequence[float | None]],
    unit: str,
    text: tuple[str, str, str],
) -> Figure:
    """Bars of each label below each other, with their values; `text`: title, subtitle, note.

    A bar that is far longer than all but a few is cut, and marked so.
    """
    count = len(labels)
    figure = Figure(figsize=(8.6, 1.5 + count * (0.115 * len(modes) + 0.1)), facecolor="white")
    panel = figure.subplots()
    end = _end([value for row in rows for value in row if value is not None])
    height = 0.84 / len(modes)
    for number, (mode, row) in enumerate(zip(modes, rows, strict=True)):
        for index, value in enumerate(row):
            if value is not None:
                place = index + (number + 0.5) * height - 0.42
                _bar(panel, place, value, end, height, WAYS[mode].color)
    panel.set_yticks(range(count), labels)
    panel.set_ylim(count - 0.4, -0.6)
    panel.set_xlim(0, end * _ROOM)
    panel.set_xlabel(unit)
    panel.grid(axis="x", color="#e6e6e6", linewidth=0.7)
    panel.tick_params(length=0)
    panel.spines["left"].set_visible(False)
    return _finished(figure, modes, text)


def _end(values: Sequence[float]) -> float:
    """Where bars are cut: at the longest one, unless that leaves no room for most others."""
    ordered = sorted(values)
    usual = ordered[min(len(ordered) - 1, int(len(ordered) * 0.96))]
    return ordered[-1] if ordered[-1] < 2 * usual else usual * 1.25


def _bar(panel: Axes, place: float, value: float, end: float, height: float, color: str) -> None:
    shown = min(value, end)
    panel.barh(place, shown, height * 0.92, color=color)
    text = f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
    panel.text(shown + end * 0.006, place, text, fontsize=6.5, va="center", color="#333333")
    if value > end:
        for shift in (0.965, 0.975):
            across = [end * (shift - 0.004), end * (shift + 0.004)]
            down = [place + height * 0.6, place - height * 0.6]
            panel.plot(across, down, color="white", linewidth=1.6)


def panels(count: int, columns: int = 4) -> tuple[Figure, list[Axes]]:
    """So many small charts with the same axes."""
    columns = min(columns, count)
    lines = -(-count // columns)
    size = (max(5.2, 2.4 * columns), 1.5 + 1.9 * lines)
    figure = Figure(figsize=size, facecolor="white")
    made = list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat)
    for index, panel in enumerate(made):
        panel.set_visible(index < count)
        panel.grid(color="#ececec", linewidth=0.7)
        # The lowest of a column has the labels, even if there is nothing below in the last line.
        panel.tick_params(length=0, labelbottom=index + columns >= count)
    return figure, made[:count]


def scale(panel: Axes, ticks: Sequence[float], *, both: bool) -> None:
    """Logarithmic in y, and in x if `both`; `ticks` are those of x. Numbers are plain."""
    panel.set_yscale("log")
    if both:
        panel.set_xscale("log")
    panel.xaxis.set_major_locator(FixedLocator([*ticks]))
    panel.xaxis.set_minor_locator(NullLocator())
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    panel.xaxis.set_major_formatter(plain)
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter(plain)
    panel.yaxis.set_minor_formatter(NullFormatter())


def finished_panels(
    figure: Figure, modes: Sequence[str], axes: tuple[str, str], text: tuple[str, str, str]
) -> Figure:
    wide, high = figure.get_size_inches()
    quiet: Any = {"fontsize": 9, "color": "#444444"}
    figure.text(0.55, 0.33 / high, axes[0], ha="center", **quiet)
    figure.text(0.1 / wide, 0.5, axes[1], va="center", rotation=90, **quiet)
    return _finished(figure, modes, text, lines=True)


def _finished(
    figure: Figure, modes: Sequence[str], text: tuple[str, str, str], *, lines: bool = False
) -> Figure:
    """With title, subtitle, legend and note; their places are in inches from the edges."""
    title, subtitle, note = text
    wide, high = figure.get_size_inches()
    figure.text(0.1 / wide, 1 - 0.12 / high, title, fontsize=13, fontweight="bold", va="top")
    figure.text(0.1 / wide, 1 - 0.38 / high, subtitle, fontsize=8.5, va="top", color="#555555")
    handles = [
        Line2D([], [], color=way.color, marker="o", markersize=4, label=way.label) if lines
        else Patch(color=way.color, label=way.label)
        for way in (WAYS[mode] for mode in modes)
    ]  # fmt: skip
    figure.legend(handles=handles, frameon=False, ncols=min(4, len(handles)), fontsize=8.5,
                  loc="upper left", bbox_to_anchor=(0.02 / wide, 1 - 0.54 / high),
                  borderaxespad=0.0, handlelength=1.2)  # fmt: skip
    figure.text(0.1 / wide, 0.06 / high, _folded(note, int(wide * 22)), fontsize=5.5, color=_FOOT)
    legend_lines = -(-len(handles) // 4)
    top = 1 - (0.62 + 0.2 * legend_lines) / high
    left, bottom = (0.25 / wide, 0.52 / high) if lines else (0, 0.3 / high)
    figure.tight_layout(rect=(left, bottom, 1, top), pad=0.4)
    return figure


def _folded(text: str, width: int) -> str:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) >= width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return "\n".join([*lines, line])
