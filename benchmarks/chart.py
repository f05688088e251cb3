"""Horizontal bars as SVG, without a plotting library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

_WIDTH = 760
_LABEL = 190  # room for the names, in pixels
_BAR = 22
_STEP = 30
_COLORS = ("#2f6f9f", "#b9b9b9")


class Bar(NamedTuple):
    name: str
    value: float


def draw_bars(title: str, panels: Mapping[str, Sequence[Bar]], note: str) -> str:
    """One panel a unit, one bar a way; ours and the one to compare with take turns."""
    parts = [_text(10, 24, title, 16, bold=True)]
    y = 40
    for unit, bars in panels.items():
        y += 18
        parts.append(_text(_LABEL, y, unit, 12))
        y += 8
        largest = max(bar.value for bar in bars)
        for number, bar in enumerate(bars):
            width = bar.value / largest * (_WIDTH - _LABEL - 80)
            color = _COLORS[number % len(_COLORS)]
            parts += [
                _text(10, y + 16, bar.name, 13),
                f'<rect x="{_LABEL}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{color}"/>',
                _text(_LABEL + width + 6, y + 16, f"{bar.value:.2f}", 13),
            ]
            y += _STEP
    parts.append(_text(10, y + 20, note, 10))
    height = y + 34
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif">\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, size: int, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}" font-size="{size}"{weight}>{escape(text)}</text>'
