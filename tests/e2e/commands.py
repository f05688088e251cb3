"""Our commands as users call them, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_BIN = Path(sys.executable).parent

Done = subprocess.CompletedProcess[str]


def call(name: str, *arguments: object, timeout: float = 120) -> Done:
    """Run one of our commands to its end, with nothing on standard input."""
    return subprocess.run(
        [str(_BIN / name), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def succeed(name: str, *arguments: object) -> str:
    """Standard output of a command that must succeed."""
    done = call(name, *arguments)
    assert done.returncode == 0, f"{name} ended with {done.returncode}: {done.stderr}"
    return done.stdout


def assert_refused(done: Done, code: int, *words: str) -> None:
    """It ended with `code` and one line on stderr that begins with its name and has `words`."""
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].split(":")[0] in ("nydusify", "nydus-fs", "lazyrun")
    assert [word for word in words if word not in lines[0]] == [], lines[0]
