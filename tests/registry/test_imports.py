"""What does not talk to a network does not load what does."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIGHT = ["reference", "descriptor", "manifest", "config", "platform", "store", "layout"]
LIGHT += ["layout_writer", "credentials", "retry"]


@pytest.mark.parametrize("heavy", ["requests", "urllib3", "ssl", "trio"])
def test_light_modules(heavy: str) -> None:
    modules = ", ".join(f"fs.registry.{name}" for name in LIGHT)
    code = f"import sys, {modules}; sys.exit({heavy!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
