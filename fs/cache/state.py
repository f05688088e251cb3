"""How far a blob's chunk map can be trusted: `<id>.blob.state`.

What a dead process wrote stays true, for the page cache outlives it. What a
dead machine wrote may be torn. So the state names the boot in which the blob
is in use, or says that all was synced since: `clean`.
"""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from fs.cache.locks import sync_directory

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class State(NamedTuple):
    boot: str
    clean: bool

    def is_trustworthy(self) -> bool:
        """Whether what the chunk map says is in the data is there."""
        return self.clean or self.boot == boot_id()


def read_state(prefix: str) -> State | None:
    """None when there is none that can be read: then nothing is to be trusted."""
    try:
        with open(prefix + ".state", "rb") as file:
            fields = json.load(file)
        return State(str(fields["boot"]), fields["clean"] is True)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_state(prefix: str, *, clean: bool) -> None:
    """Lasting when it returns. OSError when the disk does not take it."""
    temporary = prefix + ".state.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, json.dumps({"boot": boot_id(), "clean": clean}).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, prefix + ".state")
    sync_directory(os.path.dirname(prefix))


def boot_id() -> str:
    """36 characters that no other boot of any machine has."""
    with open(_BOOT_ID) as file:
        return file.read().strip()
