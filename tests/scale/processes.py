"""Our commands under measurement: seconds, memory at its highest, open files.

Peaks are VmHWM, polled: what wait(2) tells of a child includes the memory of the
process that forked it.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

_BIN = Path(sys.executable).parent


class Figures(NamedTuple):
    """How a command went: its output, the peak of its memory in bytes, seconds."""

    output: str
    peak: int
    seconds: float


def measure(name: str, *arguments: object, timeout: float = 900) -> Figures:
    """Run one of our commands, which must succeed, at low priority."""
    command = ["nice", "-n", "10", str(_BIN / name), *map(str, arguments)]
    started = time.monotonic()
    peak = 0
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while process.poll() is None:
                peak = max(peak, peak_memory(process.pid))
                assert time.monotonic() < started + timeout, f"{name}: not within {timeout} s"
                time.sleep(0.02)
        finally:
            process.kill()
        assert process.stdout
        assert process.stderr
        output, errors = process.stdout.read(), process.stderr.read()
    assert process.returncode == 0, f"{name} ended with {process.returncode}: {errors}"
    return Figures(output, peak, time.monotonic() - started)


def peak_memory(pid: int) -> int:
    """The highest resident memory that `pid` ever had, in bytes; 0 when it has ended."""
    return _status_field(pid, "VmHWM")


def own_memory(pid: int) -> int:
    """Resident memory of `pid` that is its own, not that of mapped files, in bytes."""
    return _status_field(pid, "RssAnon")


def _status_field(pid: int, field: str) -> int:
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        if found := re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE):
            return int(found[1]) << 10
    return 0


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
