"""What measurements see to before they begin."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.measure import compile_tools


def test_measured_tools_are_compiled() -> None:
    compile_tools()
    command = [sys.executable, "-v", "-c", "import nydusify.cli, runner.cli, fs.cli"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "nydusify/__pycache__/cli." in said
    assert "bytecode is stale" not in said
    assert "/fs/cli.py'" not in said  # whose code would come from the source
