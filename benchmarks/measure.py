"""Running a command from a cold start and timing its first output."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from compileall import compile_dir
from pathlib import Path
from typing import NamedTuple

_REPOSITORY = Path(__file__).resolve().parent.parent
_TIMEOUT = 300.0


class Run(NamedTuple):
    """Seconds from the call to the first byte on stdout, and what was printed."""

    first_output: float
    output: str


def compile_tools() -> None:
    """Have our tools start as installed ones do, whose modules are compiled already.

    Where PYTHONDONTWRITEBYTECODE is set, those that were edited are compiled at each start.
    """
    for package in ("fs", "nydusify", "snapshotter", "runner"):
        compile_dir(_REPOSITORY / package, quiet=2)


def drop_caches() -> None:
    """Empty the page, dentry and inode caches of the whole machine."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def run_to_end(command: Sequence[str], stdin: bytes = b"") -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, input=stdin, capture_output=True)
    if done.returncode:
        said = done.stderr[-1000:].decode(errors="replace")
        raise RuntimeError(f"{' '.join(command)}: {done.returncode}: {said}")
    return done.stdout.decode(errors="replace")


def first_output(commands: list[list[str]], while_alive: Callable[[], None] | None = None) -> Run:
    """Run `commands` one after the other; time from the first start to the last one's output.

    The last one is expected to print and then to live until its input ends, so that
    `while_alive` can look at it.
    """
    start = time.monotonic()
    for command in commands[:-1]:
        run_to_end(command)
    last = commands[-1]
    with subprocess.Popen(last, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        first = os.read(process.stdout.fileno(), 1 << 16)
        seconds = time.monotonic() - start
        if first and while_alive:
            while_alive()
        process.stdin.close()
        rest = process.stdout.read()
        code = process.wait(_TIMEOUT)
    if code or not first:
        raise RuntimeError(f"{' '.join(last)}: exit code {code}")
    return Run(seconds, (first + rest).decode(errors="replace"))


def program(name: str) -> str:
    """One of our own commands, from the environment that runs this."""
    return str(Path(sys.executable).parent / name)
