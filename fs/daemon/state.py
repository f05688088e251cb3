"""The files of a daemon: one directory, whose name is all that a client must know.

    STATE_ROOT/                   the daemon of the node
        lock                      held as long as any of its processes lives
        state.json                all instances; written whole before one is announced
        control.sock              answers our commands
        api.sock                  answers nydusd's HTTP API
        api/ api.config/          where that mounts, and from which configurations
        daemon.log                standard output and error
        mnt/                      the one FUSE mount; every image is a directory of it
    STATE_ROOT/<hash>/            the same of a daemon that serves one mountpoint only

While a daemon lives, its worker alone writes state.json. Who starts one, or
clears up after a dead one, holds a lock on the directory itself meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from fs.daemon.order import default_state_root
from fs.format.errors import local_errors
from fs.owndir import make_own

LOCK = "lock"
STATE = "state.json"
CONTROL = "control.sock"
API = "api.sock"
API_ROOT = "api"
API_CONFIG = "api.config"
LOG = "daemon.log"
MNT = "mnt"
#: The listening sockets that a supervisor makes and each worker inherits, in this order.
SOCKETS = (CONTROL, API)
_GONE_SECONDS = 20.0


class Record(NamedTuple):
    """One mount as its daemon's state file has it; `lost`: the daemon that served it is dead."""

    directory: str
    pid: int
    fields: dict[str, Any]
    lost: bool
    single: bool = False

    @property
    def mountpoint(self) -> str:
        return str(self.fields["mountpoint"])


def private_directory(mountpoint: str, state_root: str | None) -> str:
    """The directory of a daemon for `mountpoint` (absolute, resolved) alone."""
    import hashlib  # loads a large library, and a node's daemon has no use for it

    name = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16]
    return os.path.join(state_root or default_state_root(), name)


def node_mount(directory: str) -> str:
    """Where a daemon has its one mount, as the kernel's table has it; asks nothing of the mount."""
    return os.path.join(os.path.realpath(directory), MNT)


def directories(state_root: str | None) -> list[str]:
    """The node daemon's directory and those of private ones."""
    root = state_root or default_state_root()
    if not os.path.exists(root):
        return []
    with local_errors(root):
        names = sorted(os.listdir(root))
    private = [os.path.join(root, name) for name in names if len(name) == 16 and name != MNT]
    return [root, *private]


def records(state_root: str | None) -> list[Record]:
    """All mounts below a state root that nobody has unmounted."""
    return [record for directory in directories(state_root) for record in records_in(directory)]


def records_in(directory: str) -> list[Record]:
    state = read_state(directory)
    if state is None:
        return []
    alive = lives(directory)
    found = [
        Record(directory, state["pid"], fields, not alive, bool(state["single"]))
        for fields in state["instances"]
        if not fields["leaving"]
    ]
    return found + [Record(directory, state["pid"], fields, True) for fields in state["lost"]]


def read_state(directory: str) -> dict[str, Any] | None:
    """The state in `directory`; None when there is none."""
    try:
        with open(os.path.join(directory, STATE), "rb") as file:
            state = json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return state if isinstance(state, dict) and "instances" in state else None


def write_state(directory: str, state: dict[str, Any]) -> None:
    """Replace the state whole: a crash leaves the old or the new one, never a part.

    Nothing is forced to disk: mounts do not outlive the machine's memory either.
    """
    temporary = os.path.join(directory, STATE + ".new")
    with open(temporary, "w", opener=_private) as file:
        json.dump(state, file, separators=(",", ":"))
    os.rename(temporary, os.path.join(directory, STATE))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def remove_state(directory: str) -> None:
    """Remove the files of a daemon that is gone; state.json stays if it tells of dead mounts.

    The log goes too: its mounts ended well. The lock goes last, for it shows that we live.
    """
    state = read_state(directory)
    keep = state is not None and bool(state["lost"])
    if keep and state is not None:
        write_state(directory, state | {"instances": []})
    for name in (*SOCKETS, *(() if keep else (STATE,)), STATE + ".new", LOG):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))
    with contextlib.suppress(OSError):
        os.rmdir(os.path.join(directory, MNT))
    _remove_api(directory)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, LOCK))
    if len(os.path.basename(directory)) == 16:
        with contextlib.suppress(OSError):
            os.rmdir(directory)


def _remove_api(directory: str) -> None:
    """Configurations, which may hold keys, and the empty directories that were mounted on."""
    configs = os.path.join(directory, API_CONFIG)
    with contextlib.suppress(OSError):
        for name in os.listdir(configs):
            os.unlink(os.path.join(configs, name))
        os.rmdir(configs)
    with contextlib.suppress(OSError):
        _remove_empty(os.path.join(directory, API_ROOT), os.lstat(directory).st_dev)


def _remove_empty(path: str, device: int) -> None:
    """Remove a tree of directories; OSError at the first that is a mount or not empty."""
    for name in os.listdir(path):
        below = os.path.join(path, name)
        if os.lstat(below).st_dev != device:
            raise OSError(f"{below} is a mount")
        _remove_empty(below, device)
    os.rmdir(path)


@contextlib.contextmanager
def starting(directory: str) -> Iterator[None]:
    """Be the only one who starts a daemon in `directory` or clears up after a dead one."""
    descriptor = -1
    while descriptor < 0:
        make_own(directory)
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.makedirs(directory, mode=0o700, exist_ok=True)  # a private one may have gone meanwhile
        yield
    finally:
        os.close(descriptor)


def lives(directory: str) -> bool:
    """Whether any process of the daemon lives: they share one lock, however they may die."""
    lock = open_lock(directory)
    if lock is None:
        return False
    try:
        return _is_held(lock)
    finally:
        os.close(lock)


def open_lock(directory: str) -> int | None:
    try:
        return os.open(os.path.join(directory, LOCK), os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None


def await_end(lock: int, seconds: float = _GONE_SECONDS) -> bool:
    """Wait until no process of the daemon lives; False when that takes too long."""
    deadline = time.monotonic() + seconds
    while _is_held(lock):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _is_held(lock: int) -> bool:
    # Shared, so that two who look at once do not see each other.
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(lock, fcntl.LOCK_UN)
    return False
