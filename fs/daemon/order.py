"""What one mount was asked to be, and where its files are: shared by client, supervisor and worker.

Everything about a mount lies in one directory whose name follows from the
mountpoint, so that no registry of mounts is needed:

    STATE_ROOT/<hash of the mountpoint>/
        lock           held by the daemon as long as any of its processes lives
        state.json     written whole; read by `status`, `umount` and the next worker
        control.sock   answers `status`
        daemon.log     standard output and error of the detached daemon

Light on purpose (no dataclasses, no subprocess): lazyrun starts cold through here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import Any, NamedTuple

LOCK = "lock"
STATE = "state.json"
CONTROL = "control.sock"
LOG = "daemon.log"


class MountOptions(NamedTuple):
    """How to mount. Directories default by user: see `cache_dir` and `state_root` below."""

    plain_http: bool = False
    insecure: bool = False
    platform: str | None = None
    auth_file: str | None = None
    ca_file: str | None = None
    cache_dir: str | None = None
    state_root: str | None = None
    blob_dir: str | None = None
    backend_url: str | None = None
    outage_deadline: float = 120.0
    """Seconds that reads wait through an outage of the backend before they fail with EIO."""
    amplify: int = 128 << 10
    """Bytes that a missing chunk's request brings at first; more where much is missed."""
    prefetch: str | bool = "table"
    """What is fetched unasked: the image's "table" (True), "all", or "none" (False)."""
    prefetch_bandwidth: int | None = None
    """Bytes a second for what "all" fetches beyond the table."""
    trace: str | None = None
    """The file that records what is touched first."""
    nosuid: bool = False
    log_level: str = "info"

    @property
    def prefetch_mode(self) -> str:
        if isinstance(self.prefetch, bool):
            return "table" if self.prefetch else "none"
        return self.prefetch


class Order(NamedTuple):
    """One mount: `source` and `mountpoint` (absolute, resolved) and how."""

    source: str
    mountpoint: str
    options: MountOptions

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "mountpoint": self.mountpoint,
            "options": self.options._asdict(),
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Order:
        return cls(fields["source"], fields["mountpoint"], MountOptions(**fields["options"]))


def default_cache_dir() -> str:
    if os.geteuid() == 0:
        return "/var/lib/nydus-fs"
    return os.path.join(_xdg("XDG_CACHE_HOME", "~/.cache"), "nydus-fs")


def default_state_root() -> str:
    if os.geteuid() == 0:
        return "/run/nydus-fs"
    return os.path.join(_xdg("XDG_RUNTIME_DIR", "~/.local/state"), "nydus-fs")


def _xdg(variable: str, fallback: str) -> str:
    return os.environ.get(variable) or os.path.expanduser(fallback)


def state_dir(mountpoint: str, state_root: str | None) -> str:
    """The directory of the mount at `mountpoint` (an absolute, resolved path)."""
    name = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16]
    return os.path.join(state_root or default_state_root(), name)


def read_state(directory: str) -> dict[str, Any] | None:
    """The state of the mount in `directory`; None when there is none."""
    try:
        with open(os.path.join(directory, STATE), "rb") as file:
            state = json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def write_state(directory: str, state: dict[str, Any]) -> None:
    """Replace the state whole: a crash leaves the old or the new one, never a part."""
    temporary = os.path.join(directory, STATE + ".new")
    with open(temporary, "w", opener=_private) as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, os.path.join(directory, STATE))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def remove_state(directory: str) -> None:
    """Remove the files of a mount that is gone. The log goes too: its mount ended well."""
    for name in (CONTROL, STATE, STATE + ".new", LOG, LOCK):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))
    with contextlib.suppress(OSError):
        os.rmdir(directory)
