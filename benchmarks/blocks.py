"""Blocks of text in the docs that a command writes: between two marks, never by hand."""

from __future__ import annotations

from pathlib import Path

_END = "<!-- end -->"


def write_block(document: Path, command: str, text: str) -> None:
    """Put `text` where `document` has the block of `command`."""
    begin = f"<!-- written by {command} -->"
    before, found, rest = document.read_text().partition(begin)
    _, end, after = rest.partition(_END)
    if not found or not end:
        raise RuntimeError(f"{document} has no block for {command}")
    document.write_text(f"{before}{begin}\n```text\n{text}\n```\n{_END}{after}")
