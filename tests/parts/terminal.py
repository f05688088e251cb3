"""A terminal, and somebody who reads it and types."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.parts.waiting import eventually


def read_until(master: int, wanted: bytes) -> bytes:
    """What a terminal shows until it matches."""
    shown = b""

    def there() -> bool:
        nonlocal shown
        if select.select([master], [], [], 1)[0]:
            shown += os.read(master, 4096)
        return re.search(wanted, shown) is not None

    eventually(there, f"{wanted!r} on the terminal", pause=0)
    return shown


def type_at_prompt(
    command: list[str], typed: str, place: Path, environment: Mapping[str, str]
) -> tuple[int, str]:
    """Run `command` on a terminal and type when it prompts: its exit code, and all it showed."""
    master, slave = pty.openpty()
    try:
        process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=place,
            env=environment,
            start_new_session=True,
        )
        shown = read_until(master, rb"# ")
        os.write(master, typed.encode())

        def over() -> bool:
            nonlocal shown
            ended = process.poll() is not None
            while select.select([master], [], [], 0.1)[0]:
                shown += os.read(master, 4096)
            return ended

        eventually(over, "the end of what was typed to")
        return process.returncode, shown.decode().replace("\r\n", "\n")
    finally:
        os.close(master)
        os.close(slave)
