"""Start a daemon, once however many clients want it, and clear up after a dead one."""

from __future__ import annotations

import contextlib
import json
import os
import sys

from fs.daemon.control import Line
from fs.daemon.failures import failure_from
from fs.daemon.mountpoints import is_mounted, unmount_kernel
from fs.daemon.order import DaemonOptions
from fs.daemon.state import (
    LOG,
    SOCKETS,
    await_end,
    lives,
    node_mount,
    open_lock,
    read_state,
    remove_state,
    starting,
    write_state,
)
from fs.format.errors import MountError

_PACKAGE_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_DAEMON = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from fs.daemon.supervisor import detached; detached(sys.argv[2], int(sys.argv[3]))"
)


def connect(options: DaemonOptions) -> Line:
    """A line to the daemon of a directory, which is started if need be. Failure."""
    with contextlib.suppress(OSError):
        return Line(options.directory, None)
    with starting(options.directory):
        with contextlib.suppress(OSError):  # somebody was quicker
            return Line(options.directory, None)
        start(options)
    try:
        return Line(options.directory, None)
    except OSError as error:
        raise MountError(f"{options.directory}: the daemon does not answer: {error}") from None


def start(options: DaemonOptions) -> None:
    """Start a detached daemon and wait until it answers; call inside of `state.starting`."""
    clear_dead(options)
    reports, reporter = os.pipe()
    try:
        try:
            _spawn(options, reporter)
        finally:
            os.close(reporter)
        report = _read_all(reports)
    finally:
        os.close(reports)
    log = os.path.join(options.directory, LOG)
    if not report:
        raise MountError(f"{options.directory}: the daemon ended without a word, see {log}")
    outcome = json.loads(report)
    if "failure" in outcome:
        raise failure_from(outcome["failure"])


def clear_dead(options: DaemonOptions) -> None:
    """Wait for a daemon that is ending; take away what a dead one left but its list of mounts."""
    directory = options.directory
    lock = open_lock(directory)
    if lock is not None:
        try:
            if not await_end(lock):
                raise MountError(f"{directory}: its daemon neither answers nor ends")
        finally:
            os.close(lock)
    mount = options.single or node_mount(directory)
    state = read_state(directory)
    if is_mounted(mount) and (options.single is None or state is not None):
        unmount_kernel(mount, lazy=True)
    for name in (*SOCKETS, LOG):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))


def forget_lost(directory: str, mountpoint: str) -> None:
    """A dead mount is gone: strike it off its dead daemon's list, whose files go with the last."""
    with starting(directory):
        state = read_state(directory)
        if state is None or lives(directory):
            return
        dead = [fields for fields in state["instances"] if not fields["leaving"]]
        state["lost"] = [
            fields for fields in [*state["lost"], *dead] if fields["mountpoint"] != mountpoint
        ]
        state["instances"] = []
        write_state(directory, state)
        if not state["lost"]:
            mount = node_mount(directory)
            if is_mounted(mount):
                unmount_kernel(mount, lazy=True)
            remove_state(directory)


def _spawn(options: DaemonOptions, reporter: int) -> None:
    """Start the supervisor; it leaves our process tree by itself, so nothing is left to reap."""
    log = os.open(
        os.path.join(options.directory, LOG),
        os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW,
        0o600,
    )
    command = [sys.executable, "-I", "-S", "-c", _DAEMON, _PACKAGE_ROOT]
    command += [json.dumps(options._asdict()), "3"]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, log, 1),
        (os.POSIX_SPAWN_DUP2, log, 2),
        (os.POSIX_SPAWN_DUP2, reporter, 3),
    ]
    try:
        # A new process group, so that a Ctrl-C in the caller's terminal is not for the daemon.
        pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions, setpgroup=0)
    finally:
        os.close(log)
    os.waitpid(pid, 0)


def _read_all(descriptor: int) -> bytes:
    pieces = []
    while piece := os.read(descriptor, 1 << 16):
        pieces.append(piece)
    return b"".join(pieces)
