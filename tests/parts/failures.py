"""What a failed test leaves running is ended with it, so that it fails alone.

pytest names the test of the moment, and whether it is being set up or called, in the
environment: what a test's body starts inherits that name. Fixtures' processes have another
name and end as their fixtures say.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

from tests.parts import leaks

_VARIABLE = "PYTEST_CURRENT_TEST"
_PHASES = ("call", "teardown")
_GRACE = 2.0


def end_processes_of(test: str, root: Path | None) -> list[int]:
    """End what the body or teardown of `test` started, and containers with layers in `root`.

    They are asked first, so that those who clear up on SIGTERM do.
    """
    marks = [f"{_VARIABLE}={test} ({phase})".encode() for phase in _PHASES]
    ended: set[int] = set()
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _GRACE
        while found := [pid for pid, _ in leaks.processes_with(marks, root)]:
            for pid in found if number == signal.SIGKILL else set(found) - ended:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            ended.update(found)
            _reap(ended)
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
    return sorted(ended)


def _reap(pids: set[int]) -> None:
    """Ask how those of our own children ended: nobody else will."""
    for child in gc.get_objects():
        if isinstance(child, subprocess.Popen) and child.returncode is None and child.pid in pids:
            child.poll()


def forget() -> None:
    """Let the files and sockets that only a failed test's frames hold go without a warning."""
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):
        if hasattr(sys, name):
            delattr(sys, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
