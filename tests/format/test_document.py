"""docs/format.md has the sections that the code points to, and its drawing is true."""

from __future__ import annotations

import re
from pathlib import Path

import fs.format
from fs.format.versions import open_bootstrap

PACKAGE = Path(fs.format.__path__[0])
DOCUMENT = PACKAGE.parent.parent / "docs/format.md"


def test_sections_named_in_the_code_exist() -> None:
    headings = set(re.findall(r"^## (.*)$", DOCUMENT.read_text(), re.MULTILINE))
    named = set()
    for module in PACKAGE.glob("*.py"):
        for sentence in re.findall(
            r"docs/format\.md,\s+((?:\"[^\"]+\"[,\s]*)+)", module.read_text()
        ):
            named.update(re.findall(r'"([^"]+)"', sentence))
    assert len(named) > 8
    assert named <= headings


def test_the_drawn_file_is_the_sample(samples: Path) -> None:
    image = (samples / "rafs-v6-2.2.boot").read_bytes()
    drawn = DOCUMENT.read_text().split("```")[1]
    bootstrap = open_bootstrap(image, "sample")
    for entry in bootstrap.entries(bootstrap.root):
        offset = 8192 + 32 * entry.nid
        assert f"{offset}  inode {entry.nid}: {entry.name.decode()}" in drawn
    assert f"{len(image)}  end" in drawn
